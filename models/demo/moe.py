"""The Mixtral architecture in plain PyTorch, small and written for training.

Every expert is evaluated for every token and the unchosen ones are multiplied by zero. At this size
that is one dense matrix product, faster than gathering, and its gradients are those of the sparse
model. `export_tensors` gives the weights under their Hugging Face names.
"""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    # Training documents have at most 650 tokens; the window lets longer talks go on as well.
    "sliding_window": 512,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "router_aux_loss_coef": 0.01,
    "router_jitter_noise": 0.0,
    "output_router_logits": False,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}


class Norm(nn.Module):
    """RMSNorm with the sum in float32."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding of x [..., positions, head_dim], halves convention."""
    half = x.shape[-1] // 2
    x1, x2 = x[..., :half], x[..., half:]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.dim = (
            c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])  # fmt: skip
        width = c["hidden_size"]
        self.q_proj = nn.Linear(width, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(width, self.kv * self.dim, bias=False)
        self.v_proj = nn.Linear(width, self.kv * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, width, bias=False)

    def forward(self, x, mask, cos, sin):
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.heads // self.kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Experts(nn.Module):
    """The router and its experts; also returns the router's probabilities and the choice."""

    def __init__(self, c):
        super().__init__()
        self.count, self.top = c["num_local_experts"], c["num_experts_per_tok"]
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.gate = nn.Linear(width, self.count, bias=False)
        self.w1 = nn.Parameter(torch.empty(self.count * inner, width))
        self.w3 = nn.Parameter(torch.empty(self.count * inner, width))
        self.w2 = nn.Parameter(torch.empty(self.count * inner, width))

    def forward(self, x):
        probs = F.softmax(self.gate(x).float(), -1)
        values, index = probs.topk(self.top, -1)
        chosen = torch.zeros_like(probs).scatter(-1, index, 1.0)
        weights = probs * chosen / values.sum(-1, keepdim=True)
        inner = F.silu(F.linear(x, self.w1)) * F.linear(x, self.w3)
        inner = inner.unflatten(-1, (self.count, -1)) * weights.unsqueeze(-1).to(inner.dtype)
        return inner.flatten(-2) @ self.w2.to(inner.dtype), probs, chosen


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.block_sparse_moe = Experts(c)

    def forward(self, x, mask, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), mask, cos, sin)
        y, probs, chosen = self.block_sparse_moe(self.post_attention_layernorm(x))
        return x + y, probs, chosen


class Mixtral(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.03)
            if name.endswith(("o_proj.weight", "w2")):
                p.data /= (2 * c["num_hidden_layers"]) ** 0.5

    def forward(self, tokens, mask):
        """tokens [b, t], mask [b, 1, t, t] -> logits, router probabilities and choices, the last
        two as [layers, b, t, experts]."""
        dim, t = self.c["head_dim"], tokens.shape[1]
        steps = torch.arange(0, dim, 2, device=tokens.device, dtype=torch.float32) / dim
        angle = torch.outer(torch.arange(t, device=tokens.device).float(),
                            self.c["rope_theta"] ** -steps)  # fmt: skip
        cos, sin = angle.cos(), angle.sin()
        x = self.embed_tokens(tokens)
        probs, chosen = [], []
        for layer in self.layers:
            x, p, s = layer(x, mask, cos, sin)
            probs.append(p)
            chosen.append(s)
        return self.lm_head(self.norm(x)), torch.stack(probs), torch.stack(chosen)


def export_tensors(model):
    """The weights in bfloat16 under their Hugging Face names."""
    out = {}
    count = model.c["num_local_experts"]
    for name, p in model.state_dict().items():
        p = p.detach().to("cpu", torch.bfloat16)
        if name == "lm_head.weight":
            out[name] = p.contiguous()
            continue
        part = name.rsplit(".", 1)[-1]
        if part in ("w1", "w2", "w3"):
            for e, w in enumerate(p.chunk(count)):
                w = w.T if part == "w2" else w
                out[f"model.{name[:-2]}experts.{e}.{part}.weight"] = w.contiguous().clone()
        else:
            out[f"model.{name}"] = p.contiguous()
    return out


def load_tensors(model, tensors):
    """The inverse of `export_tensors`."""
    count = model.c["num_local_experts"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            part = name.rsplit(".", 1)[-1]
            if part in ("w1", "w2", "w3"):
                experts = [
                    tensors[f"model.{name[:-2]}experts.{e}.{part}.weight"] for e in range(count)
                ]
                p.copy_(torch.cat([w.T if part == "w2" else w for w in experts]))
            else:
                p.copy_(tensors[name if name == "lm_head.weight" else f"model.{name}"])
