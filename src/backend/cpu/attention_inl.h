// Attention over a paged cache, one source for every instruction set: a file attention_<isa>.cpp
// names the table and includes this.
//
// What is computed, for every query row alike: positions in chunks of kChunk and segments of
// kSegment from position 0 on; in a segment an online softmax, chunk by chunk; then the segments
// folded in ascending order. Scores sum over the dims, and values over the positions, in ascending
// order. A position that a row does not see has weight 0 and changes no bit, so it does not matter
// which other rows share the row's tile.
//
// Two kinds of products: of floats (attention_floats_inl.h), or of bf16 where the processor has
// them and the cache is bf16 (attention_pairs_inl.h). Which one follows from the cache's type and
// shape, so a model always has the same.

#pragma once

#include "backend/cpu/attention_floats_inl.h"
#include "backend/cpu/attention_pairs_inl.h"

namespace moesaic::backend::cpu {
namespace {

TileState start(const AttentionTile& tile) {
  TileState state = set_up(tile);
#if defined(__AVX512BF16__)
  if (takes_pairs(tile.kv)) {
    set_pair_queries(tile, state);
    return state;
  }
#endif
  set_queries(tile, state);
  return state;
}

/// Fills state.segment with what the rows see of one segment.
void run_segment(const AttentionTile& tile, const TileState& state, int64_t segment) {
  clear(state.segment, state.rows, state.dim);
  const int64_t seen_from =
      tile.window > 0 && tile.position >= tile.window ? tile.position - tile.window + 1 : 0;
  int64_t end = tile.position + tile.tokens;
  if (end > (segment + 1) * kSegment) end = (segment + 1) * kSegment;
  int64_t first = segment * kSegment;
  if (first < seen_from) first = seen_from / kChunk * kChunk;
  if (first >= end) return;
#if defined(__AVX512BF16__)
  if (takes_pairs(tile.kv)) {
    pair_chunks(tile, state, first, end);
    return;
  }
#endif
  switch (tile.kv.type) {
    case KvType::kF32:
      return float_chunks<KvType::kF32>(tile, state, first, end);
    case KvType::kBF16:
      return float_chunks<KvType::kBF16>(tile, state, first, end);
    case KvType::kF16:
      return float_chunks<KvType::kF16>(tile, state, first, end);
  }
}

void attention_tile(const AttentionTile& tile) {
  const TileState state = start(tile);
  const SegmentRange range = segments_of(tile.position, tile.tokens, tile.window);
  for (int64_t segment = range.first; segment < range.end; ++segment) {
    run_segment(tile, state, segment);
    fold(state, state.segment);
  }
  finish(tile, state);
}

void attention_segment(const AttentionTile& tile, int64_t segment, float* partial) {
  const TileState state = start(tile);
  run_segment(tile, state, segment);
  copy(state.segment, sums_at(partial, state.rows, state.dim), state.rows, state.dim);
}

void attention_merge(const AttentionTile& tile, float* partials) {
  const TileState state = set_up(tile);
  const SegmentRange range = segments_of(tile.position, tile.tokens, tile.window);
  const int64_t step = attention_partial(state.rows, tile.kv.head_dim);
  for (int64_t i = 0; i < range.end - range.first; ++i) {
    fold(state, sums_at(partials + i * step, state.rows, state.dim));
  }
  finish(tile, state);
}

}  // namespace

const AttentionTable MOESAIC_ATTENTION_TABLE = {attention_tile, attention_segment, attention_merge};

}  // namespace moesaic::backend::cpu
