"""A Mixtral model's folder with a byte-level tokenizer, written as a GGUF file."""

import json
import struct

import gguf
import numpy as np

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
}
EXPERT = {"w1": "gate", "w2": "down", "w3": "up"}


def tensors_of(folder):
    """Every tensor of the folder's safetensors files, as float32."""
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name == "__metadata__":
                continue
            assert entry["dtype"] == "BF16", entry
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype=np.uint16)
            yield name, (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


def paired(rows, heads):
    """Rows of each head in the order in which rope's pairs are neighbours."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def tensors(folder, config):
    """Names and values as llama.cpp's converter has them."""
    experts = {}
    for name, values in tensors_of(folder):
        prefix, rest = "", name
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            prefix = f"blk.{layer}."
        if ".experts." in rest:
            index, kind, _ = rest.split(".experts.")[1].split(".")
            stack = experts.setdefault(f"{prefix}ffn_{EXPERT[kind]}_exps.weight", {})
            stack[int(index)] = values
            continue
        if "q_proj" in rest:
            values = paired(values, config["num_attention_heads"])
        if "k_proj" in rest:
            values = paired(values, config["num_key_value_heads"])
        yield prefix + NAMES[rest], values
    for name, stack in experts.items():
        yield name, np.stack([stack[index] for index in sorted(stack)])


def add_config(writer, config):
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer, folder, pre):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids.update(special)
    tokens = sorted(ids, key=ids.get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    writer.add_bos_token_id(ids[config["bos_token"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_add_bos_token(config["add_bos_token"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text())


def write(folder, path, quantise=lambda name, values: None, pre="smollm", change=None, **options):
    """`quantise` gives the GGUF type of a tensor, None for F32; `change` adds keys."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama", **options)
    add_config(writer, config)
    add_tokenizer(writer, folder, pre)
    if change:
        change(writer)
    for name, values in tensors(folder, config):
        kind = quantise(name, values)
        if kind is None:
            writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
