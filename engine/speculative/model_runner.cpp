#include "engine/speculative/model_runner.h"

#include "core/error.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

int64_t whole_blocks(int64_t keys) { return std::max<int64_t>(1, key_blocks_of(keys)) * kKeyBlock; }

}  // namespace

ModelRunner::ModelRunner(const Transformer& model, int64_t layers, const RunnerLimits& limits, Pool& pool)
    : limits_(limits), packed_(model, weights_, pool, layers == 0 ? model.config().num_layers : layers) {
  const TransformerConfig& c = model.config();
  const int64_t text = limits.prompt + limits.own;
  logits_size_ = TokenDraw::padded(c.vocab_size);
  shared_capacity_ = whole_blocks(trees() ? text : limits.prompt), own_capacity_ = whole_blocks(trees() ? limits.depth : limits.own);
  shared_numbers_ = Forward::cache_numbers(packed_, shared_capacity_), own_numbers_ = Forward::cache_numbers(packed_, own_capacity_);
  slot_numbers_ = shared_numbers_ + std::max<int64_t>(1, limits.branches) * own_numbers_;
  caches_.reserve(limits.sequences * slot_numbers_);
  const SamplingOptions plain;   // tokens are drawn from the rows' logits by whoever asked for them
  forward_ = std::make_unique<Forward>(packed_, rope_frequencies(c.rope, c.head_dim), plain, 0,
                                       ForwardLimits{limits.threads, text + limits.depth, shared_capacity_, own_capacity_}, buffers_);
}

// Rows that read what the row before them writes stay with it: a text's tokens with each other, a branch's with their own and with the
// text's. `branch`: -1 of a text's row.
void ModelRunner::join(PassRow row, int64_t slot, int64_t branch) {
  row.joined = !pass_.rows.empty() && last_slot_ == slot && (text_in_step_ || last_branch_ == branch);
  text_in_step_ = branch < 0 || (text_in_step_ && row.joined);
  last_slot_ = slot, last_branch_ = branch;
  pass_.rows.push_back(row);
}

void ModelRunner::add(const Row& row) {
  PassRow out;
  float* const base = caches_.data() + row.slot * slot_numbers_;
  out.token = row.token, out.position = static_cast<int32_t>(row.index), out.keep = row.hidden, out.logits = row.logits;
  out.shared = {base, shared_capacity_}, out.own = {base + shared_numbers_, own_capacity_};
  out.to_shared = trees() || row.index < row.prompt;
  out.shared_keys = static_cast<int32_t>(out.to_shared ? row.index + 1 : row.prompt);
  out.own_keys = static_cast<int32_t>(out.to_shared ? 0 : row.index + 1 - row.prompt);
  join(out, row.slot, -1);
}

void ModelRunner::add_branch(const Row& row, int64_t text, int64_t branch, int64_t depth) {
  TT_CHECK(branch < limits_.branches && depth < limits_.depth, "branch {} at depth {}: {} of {} were asked for", branch, depth, limits_.branches, limits_.depth);
  PassRow out;
  float* const base = caches_.data() + row.slot * slot_numbers_;
  out.token = row.token, out.position = static_cast<int32_t>(text + depth), out.keep = row.hidden, out.logits = row.logits;
  out.shared = {base, shared_capacity_}, out.own = {base + shared_numbers_ + branch * own_numbers_, own_capacity_};
  out.shared_keys = static_cast<int32_t>(text), out.own_keys = static_cast<int32_t>(depth + 1);
  join(out, row.slot, branch);
}

}  // namespace trimtab
