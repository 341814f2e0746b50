// For tests: an environment that is another one but for its verdicts.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "envs/text_environment.h"

namespace trimtab {

class OtherVerdicts : public TextEnvironment {
 public:
  explicit OtherVerdicts(std::unique_ptr<TextEnvironment> inner) : inner_(std::move(inner)) {}
  int64_t size(Split split) const override { return inner_->size(split); }
  Problem problem(Split split, uint64_t seed, uint64_t index) const override { return inner_->problem(split, seed, index); }
  std::vector<int32_t> prompt_tokens(const Tokenizer& t, const Problem& p) const override { return inner_->prompt_tokens(t, p); }
  std::vector<int32_t> stop_ids(const Tokenizer& t) const override { return inner_->stop_ids(t); }
  std::vector<std::string> stop_strings() const override { return inner_->stop_strings(); }
  TokenExample example(const Tokenizer& t, Stage stage, TextKey key) const override { return inner_->example(t, stage, key); }
  std::string alphabet() const override { return inner_->alphabet(); }
  std::vector<Problem> read_problems(const std::string& file, bool allow) const override { return inner_->read_problems(file, allow); }

 private:
  std::unique_ptr<TextEnvironment> inner_;
};

}  // namespace trimtab
