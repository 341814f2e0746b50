// Requests as a server logged them, in place of drawn ones: JSONL, one object a line, in the order of arrival,
//
//   {"time_s": 12.25, "task": "add", "input_tokens": 40, "output_tokens": 96}
//
// `task` is a kind of prompts that the quality tables have; which of its prompts it was is drawn. An episode is a stretch of consecutive lines
// that begins where the episode's world says, with its first request at time 0.
#pragma once

#include <string>
#include <vector>

#include "envs/adapter_route/requests.h"
#include "envs/adapter_route/tables.h"

namespace trimtab {

class RequestLog {
 public:
  // DataError "file:line: what is wrong" for a line that is not that, a task that `source` does not know, a time before the last one's, or
  // fewer lines than `requests`.
  RequestLog(const std::string& file, int64_t requests, const QualitySource& source);
  void episode(WorldKey key, std::vector<Request>& out) const;

 private:
  int64_t requests_;
  std::vector<Request> all_;
};

}  // namespace trimtab
