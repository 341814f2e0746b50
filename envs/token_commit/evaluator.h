// Who evaluates token_commit in one of its modes: live in builds with LibTorch (live/evaluator.cpp), synthetic everywhere.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/registry.h"
#include "envs/evaluation.h"
#include "envs/token_commit/options.h"

namespace trimtab {

struct CommitEvaluatorEntry {
  std::string name;   // the mode
  std::function<std::unique_ptr<Evaluator>(const TokenCommitOptions& options, const std::string& file)> make;
};

}  // namespace trimtab
