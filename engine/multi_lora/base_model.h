// The base model that adapters are served beside: packed once, without any adapter.
#pragma once

#include "core/error.h"
#include "engine/generation/checks.h"
#include "engine/generation/packed_model.h"

namespace trimtab {

class LoraBaseModel {
 public:
  // ConfigError for a model that carries an adapter itself or is not causal. Norms and embeddings are read in place: it must outlive this.
  LoraBaseModel(const Transformer& model, Pool& pool)
      : packed_(checked(model), memory_, pool), rope_(rope_frequencies(model.config().rope, model.config().head_dim), model.config().max_positions) {}
  const PackedModel& packed() const { return packed_; }
  const RopeTable& rope() const { return rope_; }
  const TransformerConfig& config() const { return packed_.config(); }

 private:
  static const Transformer& checked(const Transformer& model) {
    check_causal(model.config());
    if (model.adapter() != nullptr) throw ConfigError("the model carries an adapter itself: give the base model, and the adapter beside it");
    return model;
  }

  Region memory_;
  PackedModel packed_;
  RopeTable rope_;
};

}  // namespace trimtab
