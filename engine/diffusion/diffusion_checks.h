// What is refused before a model decodes.
#pragma once

#include <span>
#include <string>

#include "core/error.h"
#include "engine/diffusion/diffusion_generator.h"

namespace trimtab {

// ConfigError when there is no mask token, or windows are beyond the model's positions.
void check_diffusion_model(const DiffusionModel& model, const DiffusionOptions& options, const TransformerConfig& config);
// DataError, naming the request.
void check_diffusion_requests(std::span<const GenerationRequest> requests, const DiffusionModel& model, const DiffusionOptions& options,
                              const DiffusionSampling& sampling, const TransformerConfig& config);

template <class Wrong>
void check_diffusion_length(int64_t length, const DiffusionOptions& o, const std::string& what) {
  if (o.window == "block" && length % o.block != 0)
    throw Wrong(fmt::format("{} = {} is no multiple of block = {}: make it one, or set window to full or sliding", what, length, o.block));
}

}  // namespace trimtab
