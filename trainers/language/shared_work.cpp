#include "trainers/language/shared_work.h"

#include "core/archive.h"

namespace trimtab {
namespace {

void pack(Archive& archive, Completion& c) {
  archive(c.request), archive(c.sample), archive(c.tokens), archive(c.logprobs), archive(c.finish);
}

}  // namespace

std::vector<Completion> complete_over_ranks(std::span<const GenerationRequest> requests, Ranks& ranks, const Complete& complete) {
  const auto [first, end] = piece_of(static_cast<int64_t>(requests.size()), ranks.rank(), ranks.size());
  std::vector<Completion> own;
  if (first < end || ranks.size() == 1) own = complete(requests.subspan(first, end - first));
  if (ranks.size() == 1) return own;
  Archive archive = Archive::writer();
  for (Completion& c : own) {
    c.request += first;
    pack(archive, c);
  }
  std::vector<Completion> all;
  for (std::string& part : ranks.gather(archive.bytes()))
    for (Archive reader = Archive::reader(std::move(part)); !reader.at_end();) pack(reader, all.emplace_back());
  return all;
}

std::vector<Verdict> score_over_ranks(TextEnvironment& environment, std::span<const Problem> problems, std::span<const std::string> texts, Ranks& ranks) {
  const auto [first, end] = piece_of(static_cast<int64_t>(problems.size()), ranks.rank(), ranks.size());
  std::vector<Verdict> own;
  if (first < end) own = environment.score(problems.subspan(first, end - first), texts.subspan(first, end - first));
  if (ranks.size() == 1) return own;
  Archive archive = Archive::writer();
  archive(own);
  std::vector<Verdict> all;
  for (std::string& part : ranks.gather(archive.bytes())) {
    Archive reader = Archive::reader(std::move(part));
    std::vector<Verdict> verdicts;
    reader(verdicts);
    all.insert(all.end(), verdicts.begin(), verdicts.end());
  }
  return all;
}

}  // namespace trimtab
