"""The fields of a model's JSON files that are known, and none of which names code.

Libraries import or fetch what some fields name (`auto_map`, `custom_pipelines`, `_attn_implementation_internal`, whose
kernels a hub serves: CVE-2026-4372), and new releases add others. So what is not known here is refused: everything that
transformers 4.57 to 5.24 and sentence-transformers 5 and 6 write for a BERT and that holds values alone is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CONFIG, TOKENIZER_CONFIG, MODULES = "config.json", "tokenizer_config.json", "modules.json"

SHAPE = """
    model_type architectures vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
    max_position_embeddings type_vocab_size layer_norm_eps initializer_range hidden_dropout_prob
    attention_probs_dropout_prob classifier_dropout position_embedding_type pad_token_id bos_token_id eos_token_id
    sep_token_id is_decoder is_encoder_decoder add_cross_attention use_cache tie_word_embeddings chunk_size_feed_forward
    id2label label2id num_labels problem_type torch_dtype dtype transformers_version split_layers item_position
"""
NOTES = """
    _name_or_path _num_labels finetuning_task task_specific_params tokenizer_class gradient_checkpointing directionality
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type output_past
    return_dict output_attentions output_hidden_states output_scores torchscript use_bfloat16 pruned_heads
    tie_encoder_decoder cross_attention_hidden_size decoder_start_token_id tf_legacy_loss use_return_dict
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    sentence_transformers sbert_ce_default_activation_function
"""
KNOWN = {
    CONFIG: frozenset((SHAPE + NOTES).split()),
    TOKENIZER_CONFIG: frozenset(
        """
        tokenizer_class model_max_length max_len max_length do_lower_case do_basic_tokenize never_split strip_accents
        tokenize_chinese_chars clean_up_tokenization_spaces added_tokens_decoder additional_special_tokens
        extra_special_tokens unk_token sep_token pad_token cls_token mask_token bos_token eos_token model_input_names
        padding_side truncation_side truncation_strategy truncation stride pad_to_multiple_of pad_token_type_id padding
        add_prefix_space add_special_tokens special_tokens_map_file tokenizer_file name_or_path from_slow backend
        is_local local_files_only unk_id split_special_tokens
        """.split()
    ),
}
CODE_FIELDS = ("auto_map", "custom_pipelines")  # transformers imports what these name, wherever they stand
ACTIVATION_FIELDS = ("activation_fn", "sbert_ce_default_activation_function", "activation_function")
ACTIVATIONS = "torch.nn.modules."  # sentence-transformers imports the activation; of this module it is harmless
MODULE_TYPES = "sentence_transformers."  # it imports the types of modules.json too


def code_problems(name: str, content: Any) -> Iterator[str]:
    """Yield what a JSON file of a model holds that may make a library run code.

    Args:
        name: of the file, without its folders.
        content: what it holds.
    """
    yield from _named_problems(content)
    known = KNOWN.get(name)
    if known is not None and isinstance(content, Mapping):
        for field in sorted(content.keys() - known - {*CODE_FIELDS}):
            yield f"has {field!r:.80}, which is not known to be a value alone: a library might run what it names"
    if name == MODULES:
        for module in content if isinstance(content, list) else [content]:
            kind = module.get("type") if isinstance(module, Mapping) else None
            if not str(kind).startswith(MODULE_TYPES):
                yield f"has a module of type {kind!r:.80}; allowed is one of {MODULE_TYPES}*"


def _named_problems(value: Any) -> Iterator[str]:
    """Yield what the fields that are known to name code hold, at any depth."""
    if isinstance(value, list):
        for child in value:
            yield from _named_problems(child)
    elif isinstance(value, Mapping):
        for field, child in value.items():
            if field in CODE_FIELDS:
                yield f"has {field!r}, which is not known to be a value alone: a library might run what it names"
            if field in ACTIVATION_FIELDS and child is not None and not str(child).startswith(ACTIVATIONS):
                yield f"has {field!r} {child!r:.80}; allowed is one of {ACTIVATIONS}*"
            yield from _named_problems(child)
