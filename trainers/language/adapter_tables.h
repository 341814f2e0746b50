// Quality tables of real adapters for envs/adapter_route (tables.h there has the format): every prompt answered by each adapter of a base model and by
// the base model alone.
//
// A prompt's embedding is the mean over its tokens of the base model's last hidden states (after the last norm), projected by a fixed Gaussian matrix
// with entries of variance 1 / hidden size, drawn by key: it is fitted on no file, so tables of training and of held-out prompts share one space.
// Quality is what the environment's verifier says of the answer, cut to [0, 1]: the share of `samples` that it takes for right, or the greedy answer alone;
// well_formed the share of them in the form asked for, where an answer that scores is one.
#pragma once

#include <vector>

#include "core/pool.h"
#include "core/recording.h"
#include "trainers/language/evaluate.h"
#include "trainers/language_tools.h"

namespace trimtab {

// [prompts, size] row-major: what a prompt's embedding is does not depend on the prompts beside it.
std::vector<float> embed_prompts(const Transformer& model, const std::vector<std::vector<int32_t>>& prompts, int64_t size);

// As tables of this model hold them. DataError naming the prompt's place for one without a text, without tokens or too long.
std::vector<EmbeddedPrompt> embed_requests(const EmbeddingOrder& order);

// Rows are grouped by category, one episode each, in the order in which categories first come. DataError naming file and line for a prompt without an
// answer, naming the folder for an adapter that is missing, damaged or another model's; ConfigError for two adapters of one name, or a name with spaces.
Recording record_adapters(const AdapterTableOrder& order);

}  // namespace trimtab
