"""Which other files a graph reads: the same that onnx finds, and no bytes break the search."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from rankdistill.export.errors import BundleError
from rankdistill.export.runtime.untrusted.onnx_file import MOST_DEPTH, external_files


def tensor(location=None, name="w"):
    made = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    if location is not None:
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in (("offset", "0"), ("location", location), ("length", "8")):
            made.external_data.add(key=key, value=value)
    return made


def constant(location):
    return helper.make_node("Constant", [], ["c"], value=tensor(location))


def graph(nodes=(), **fields):
    return helper.make_graph(list(nodes), "g", [], [], **fields)


def model(made, **fields):
    return helper.make_model(made, **fields)


def in_subgraph(location, levels=1):
    inner = graph([constant(location)])
    for _ in range(levels):
        inner = graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph())])
    return model(inner)


def sparse(location):
    return helper.make_sparse_tensor(tensor(location), helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]), [4])


def in_function(location):
    function = helper.make_function("own", "f", [], ["c"], [constant(location)], [helper.make_opsetid("", 17)])
    return model(graph(), functions=[function])


def in_default(location):
    function = helper.make_function("own", "f", [], ["c"], [constant(None)], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("value", tensor(location)))
    return model(graph(), functions=[function])


def in_training(location):
    made = model(graph())
    made.training_info.add().initialization.CopyFrom(graph([constant(location)]))
    made.training_info.add().algorithm.CopyFrom(graph(initializer=[tensor(location)]))
    return made


PLACES = {
    "an initializer": lambda location: model(graph(initializer=[tensor(), tensor(location, "v")])),
    "a constant": lambda location: model(graph([constant(location)])),
    "a list of tensors": lambda location: model(
        graph([helper.make_node("Own", [], ["c"], domain="own", values=[tensor(), tensor(location)])])
    ),
    "a subgraph": in_subgraph,
    "a subgraph of a subgraph": lambda location: in_subgraph(location, 4),
    "a list of graphs": lambda location: model(
        graph([helper.make_node("Own", [], ["c"], domain="own", graphs=[graph(), graph([constant(location)])])])
    ),
    "a sparse initializer": lambda location: model(graph(sparse_initializer=[sparse(location)])),
    "a sparse constant": lambda location: model(
        graph([helper.make_node("Constant", [], ["c"], sparse_value=sparse(location))])
    ),
    "a function": in_function,
    "a function's default": in_default,
    "training": in_training,
}
# onnx itself looks for external data in these alone
KNOWN_TO_ONNX = (
    "an initializer",
    "a constant",
    "a list of tensors",
    "a subgraph",
    "a subgraph of a subgraph",
    "a list of graphs",
)


def written(folder, made):
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
def test_a_file_beside_the_graph_is_found_wherever_the_tensor_stands(tmp_path, place):
    for location in ("weights.bin", "../../etc/passwd", "", "ünïcode"):
        assert external_files(written(tmp_path, PLACES[place](location))) == [location]
    assert external_files(written(tmp_path, PLACES[place](None))) == []


@pytest.mark.parametrize("place", KNOWN_TO_ONNX)
def test_the_same_is_found_as_by_onnx(tmp_path, place):
    path = written(tmp_path, PLACES[place]("weights.bin"))
    made = onnx.load(str(path), load_external_data=False)
    theirs = {
        e.value for t in _get_all_tensors(made) if uses_external_data(t) for e in t.external_data if e.key == "location"
    }
    assert external_files(path) == sorted(theirs) == ["weights.bin"]


def test_what_onnx_saves_beside_a_graph_is_found(tmp_path):
    path = tmp_path / "model.onnx"
    weights = numpy_helper.from_array(np.ones(2), "w")
    onnx.save(
        model(graph(initializer=[weights])), str(path), save_as_external_data=True, location="beside.data",
        size_threshold=0, convert_attribute=True,
    )  # fmt: skip
    assert (tmp_path / "beside.data").exists()
    assert external_files(path) == ["beside.data"]


def test_a_tensor_that_is_elsewhere_but_nowhere_named_is_found(tmp_path):
    made = tensor()
    made.external_data.add(key="offset", value="0")
    assert external_files(written(tmp_path, model(graph(initializer=[made])))) == [""]


def test_of_a_field_given_twice_the_last_counts_as_in_protobuf(tmp_path):
    made = model(graph(initializer=[tensor("first")]))
    content = made.SerializeToString() + model(graph(initializer=[tensor("second")])).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    assert len(onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer) == 2
    assert external_files(tmp_path / "model.onnx") == ["first", "second"]


def test_a_bundles_graphs_read_no_other_file(bundle):
    graphs = sorted(bundle.rglob("*.onnx"))
    assert len(graphs) >= 4
    assert [external_files(path) for path in graphs] == [[]] * len(graphs)


def test_graphs_inside_graphs_without_end_are_refused(tmp_path):
    with pytest.raises(BundleError, match="nested deeper"):
        external_files(written(tmp_path, in_subgraph("x", MOST_DEPTH // 3 + 1)))


def test_what_is_no_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "empty.onnx").touch()
    for name in ("none.onnx", "empty.onnx", "."):
        with pytest.raises(BundleError):
            external_files(tmp_path / name)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_read_or_refused_in_one_way(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(content)
    try:
        assert isinstance(external_files(path), list)
    except BundleError as error:
        assert "random.onnx" in str(error)  # noqa: PT017


@given(st.data())
def test_a_damaged_graph_is_read_or_refused_in_one_way(tmp_path_factory, data):
    content = bytearray(in_subgraph("weights.bin", 3).SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        found = external_files(path)
    except BundleError:
        return
    try:
        made = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf reads less than the search: refused later
        return
    theirs = {t.name for t in _get_all_tensors(made) if uses_external_data(t) and len(t.external_data)}
    assert found or not theirs
