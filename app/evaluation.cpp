#include "app/evaluation.h"

#include "app/episodes.h"
#include "app/summary.h"
#include "core/files.h"

namespace trimtab {

nlohmann::json evaluate(const EvaluationRequest& request) {
  const Gathered gathered = gather(request);
  std::vector<EvaluatedData> data;
  for (size_t f = 0; f < request.files.size(); ++f)
    data.push_back({request.files[f], request.splits[f] == kSynthetic ? "" : sha256_file(request.files[f]), request.splits[f]});
  return summarise(request.environment, data, gathered, static_cast<int64_t>(request.agents.size()));
}

}  // namespace trimtab
