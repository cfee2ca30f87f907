#pragma once

// Rotary position embedding (https://arxiv.org/abs/2104.09864), half-split ("neox") layout, with
// the scalings that published configs use, as the table that backends turn heads by. Everything is
// computed in float32 in the order in which transformers does it, since a frequency that differs in
// its last bit turns into a visible angle at position 100000.
//
// Scalings, with D = rotary_dim, inv_i = theta^(-2i/D), f = factor, L = original_max_position:
//   linear   inv_i / f                                        https://arxiv.org/abs/2306.15595
//   dynamic  theta grows with the position: see below         https://arxiv.org/abs/2309.00071, A.2
//   llama3   wavelength w = 2 pi / inv_i; w < L/high keeps inv_i, w > L/low takes inv_i / f,
//            between them a blend with s = (L/w - low) / (high - low)  Llama 3.1 reference code
//   yarn     blend of inv_i and inv_i / f over a ramp between the dimensions that turn beta_fast
//            and beta_slow times in L; cos and sin scaled https://arxiv.org/abs/2309.00071, 3.4
//
// Dynamic scaling here depends on the position alone: position p uses
// theta' = theta (f max(p + 1, L) / L - (f - 1))^(D / (D - 2)), which is what transformers computes
// when it is fed one token at a time. (Fed a whole long prompt, transformers turns all its
// positions by the angle of the last, so that its results depend on how the prompt was cut, and a
// cached prefix would not be reusable.)

#include "backend/step.h"
#include "model/spec.h"

namespace moesaic::model {

backend::RopeTable rope_table(const RopeSpec& spec);

}  // namespace moesaic::model
