// Small random masked diffusion models and problems for the tests of this folder.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <memory>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "domain/tasks/jsonl.h"
#include "policies/language/pretrained.h"

namespace trimtab {

inline const bool kOneThread = (at::set_num_threads(1), true);   // small problems
inline constexpr int64_t kLength = 12, kProblems = 6;

// Some digits end an answer, as often as not in the middle of it.
inline LanguageModel model_of(uint32_t index, bool masks = true) {
  ArchitectureOptions a;
  a.hidden_size = 24, a.num_layers = 2, a.num_heads = 2, a.head_dim = 8, a.max_positions = 48;
  LanguageModel out = LanguageModel::create(a, {{"tokenizer.json", character_tokenizer_json("0123456789")}}, 1);
  TransformerConfig config = out.transformer->config();
  if (masks) config.diffusion.mask_id = config.vocab_size++;
  for (const char* digit : {"7", "8", "9"}) config.eos_ids.push_back(out.tokenizer->encode(digit).at(0));
  out.transformer = std::make_unique<Transformer>(config, test_seed() + index);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : out.transformer->parameters())
    if (p.dim() == 2) p.mul_(name.find("embed") != std::string::npos ? 4 : 8);
  return out;
}

inline std::vector<FileProblem> problems_of(uint32_t index, int64_t count = kProblems) {
  Draws draws(test_seed(), Stream::kTest, index, 93);
  std::vector<FileProblem> out;
  for (int64_t i = 0; i < count; ++i) {
    FileProblem& p = out.emplace_back();
    for (int64_t n = 2 + draws.below(12); n > 0; --n) p.problem.prompt += static_cast<char>('0' + draws.below(7));
    p.problem.answer = "1", p.line = static_cast<int>(i) + 1;
  }
  return out;
}

}  // namespace trimtab
