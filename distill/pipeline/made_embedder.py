"""An embedder that a run made, and what a cascade needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rankdistill.store.stages import Built

if TYPE_CHECKING:
    from rankdistill.export.runtime.similarity_stage import Nearness

EVERY_ITEM_MB = 2000.0  # of items' vectors while a first stage is timed: what an item costs that was seen before


@dataclass(frozen=True)
class MadeEmbedder:
    """An embedder that a run made.

    Attributes:
        checkpoint: of its model.
        graphs: made of it.
        retrieval: what its vectors keep.
    """

    checkpoint: Built
    graphs: Built
    retrieval: Built

    def nearness(self) -> Nearness:
        """Open it as the first stage of a cascade, with the graph that a bundle's would have here, for one thread."""
        from rankdistill.embedder.embedder_model import text_encoder
        from rankdistill.export.graphs.variants import offered
        from rankdistill.export.quantization.embedder_graphs import read_about
        from rankdistill.export.runtime.embedder import Embedder
        from rankdistill.export.runtime.manifest import pick, read_variant
        from rankdistill.export.runtime.processor import abilities
        from rankdistill.export.runtime.similarity_stage import Nearness

        about, files = read_about(self.checkpoint.folder), {each.name: each for each in offered(self.graphs.folder)}
        entries = [each.entry(self.graphs.folder, {"graphs": {}}, []) for each in files.values()]
        chosen = pick([read_variant(entry) for entry in entries], abilities())
        encoder = text_encoder(self.checkpoint.folder, about["max_length"])
        graph = self.graphs.folder / files[chosen.name].graph
        embedder = Embedder(graph, encoder, width=about["width"], dimensions=about["dimensions"],
                            key=self.graphs.key, variant=chosen.name, threads=1)  # fmt: skip
        return Nearness(embedder, chosen, EVERY_ITEM_MB)
