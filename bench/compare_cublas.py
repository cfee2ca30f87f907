"""Times cuBLAS, through PyTorch, on the shapes of bench_cuda_products at many rows, for as long as
that does: a product kept up runs at lower clocks than a burst. Prints one line per shape.

    python3 bench/compare_cublas.py [rows]
"""

import statistics
import sys

import torch

BUDGET_MS = 60.0


def shapes(rows: int):
    """Name, outputs, inputs, rows per product, products per call (experts get an even share)."""
    yield "mixtral qkv", 6144, 4096, rows, 1
    yield "mixtral o", 4096, 4096, rows, 1
    yield "mixtral moe.up", 28672, 4096, rows * 2 // 8, 8
    yield "mixtral moe.down", 4096, 14336, rows * 2 // 8, 8
    yield "qwen3 qkv", 5120, 2048, rows, 1
    yield "qwen3 o", 2048, 4096, rows, 1
    yield "qwen3 moe.up", 1536, 2048, rows * 8 // 128, 128
    yield "qwen3 moe.down", 2048, 768, rows * 8 // 128, 128


def replay_us(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    print(torch.cuda.get_device_name(), "cuBLAS through torch", torch.__version__)
    for name, n, k, m, count in shapes(rows):
        weights = [
            torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.03 for _ in range(count)
        ]
        x = torch.rand(m, k, device="cuda", dtype=torch.bfloat16) * 2 - 1
        y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        for w in weights[:2]:
            torch.mm(x, w.t(), out=y)
        graph = torch.cuda.CUDAGraph()
        calls = max(1, 4 // count)
        with torch.cuda.graph(graph):
            for _ in range(calls):
                for w in weights:
                    torch.mm(x, w.t(), out=y)
        first = min(replay_us(graph), replay_us(graph))
        times = [replay_us(graph) for _ in range(max(3, min(30, int(BUDGET_MS * 1e3 / first))))]
        us = statistics.median(times) / calls
        flops = 2.0 * n * k * m * count
        print(f"{name:18s} rows {rows:5d} {us:10.1f} us {flops / us / 1e6:8.1f} TFLOP/s")


if __name__ == "__main__":
    main()
