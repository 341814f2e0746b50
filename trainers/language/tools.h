// Pieces of the command's language tools (trainers/language_tools.h).
#pragma once

#include <functional>
#include <string>

#include "policies/language/pretrained.h"
#include "trainers/language_tools.h"

namespace trimtab {

// A Hugging Face folder, or a run: its `model` folder for "best" (of a run that never evaluated: its latest),
// else the checkpoint's weights in it.
LanguageModel load_model(const ModelChoice& choice);

// For generate(): a progress bar, and Ctrl-C as Interrupted.
std::function<void(int64_t tokens, int64_t finished)> reply_progress(const std::string& label,
                                                                     int64_t replies);

LanguageScores evaluate_runs(const LanguageEvaluationOrder& order);
KvSensitivity measure_sensitivity(const MeasureOrder& order);
RecipeScores score_recipe(const RecipeScoreOrder& order);
Recording record_pair(const RecordOrder& order);

}  // namespace trimtab
