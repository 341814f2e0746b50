#include "envs/draft_length/recorded.h"

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

struct Drafts {
  Recording recording;
  int64_t depth = 0, hidden = 0;
  std::span<const float> target_entropy, accept, alpha, logprob, entropy, top, margin, state;

  explicit Drafts(Recording r) : recording(std::move(r)) {
    const auto found = recording.columns.find("accept");
    if (found == recording.columns.end()) throw DataError(fmt::format("{}: column 'accept' is missing: record it with `trimtab record`", recording.file));
    depth = found->second.width();
    target_entropy = recording.f32("target_entropy");
    accept = recording.f32("accept", depth), alpha = recording.f32("alpha", depth), logprob = recording.f32("logprob", depth);
    entropy = recording.f32("entropy", depth), top = recording.f32("top", depth), margin = recording.f32("margin", depth);
    check_range("accept", accept, 0, 1), check_range("alpha", alpha, 0, 1.0001f), check_range("logprob", logprob, -1e9f, 1e-4f);
    const auto hidden_column = recording.columns.find("hidden");
    if (hidden_column == recording.columns.end()) return;
    if (hidden_column->second.width() % depth != 0)
      throw DataError(fmt::format("{}: column 'hidden' has {} numbers in a row, which {} depths do not divide", recording.file, hidden_column->second.width(), depth));
    hidden = hidden_column->second.width() / depth;
    state = recording.f32("hidden", hidden * depth);
  }

  void check_range(const char* name, std::span<const float> values, float low, float high) const {
    for (size_t i = 0; i < values.size(); ++i)
      if (!(values[i] >= low && values[i] <= high))
        throw DataError(fmt::format("{}: column '{}', row {}: {} is no {}: record it again", recording.file, name, i / static_cast<size_t>(depth), values[i],
                                    low == 0 ? "probability" : "log-probability"));
  }
};

class RecordedDrafts final : public DraftSource {
 public:
  explicit RecordedDrafts(const std::vector<std::string>& files) {
    for (const std::string& file : files) {
      parts_.push_back(std::make_unique<Drafts>(read_recording(file, "draft_length")));
      const Drafts &d = *parts_.back(), &first = *parts_.front();
      if (d.depth != first.depth || d.hidden != first.hidden)
        throw DataError(fmt::format("{} holds drafts of {} tokens with hidden states of {}, {} of {} and {}: record them alike", file, d.depth, d.hidden, files[0],
                                    first.depth, first.hidden));
      for (size_t e = 0; e < d.recording.episodes.size(); ++e) texts_.push_back({parts_.back().get(), &d.recording.episodes[e]});
    }
  }

  int64_t texts() const override { return static_cast<int64_t>(texts_.size()); }
  int64_t most_drafted() const override { return parts_[0]->depth; }
  int64_t hidden_size() const override { return parts_[0]->hidden; }
  void begin(DraftPlace& place, int64_t text) const override { place.text = text, place.position = 0; }
  int64_t left(const DraftPlace& place) const override { return texts_[place.text].episode->rows - place.position; }
  int64_t committed(const DraftPlace& place, int64_t tokens) const override { return std::min(tokens, left(place)); }
  float last_entropy(const DraftPlace& place) const override {
    return place.position == 0 ? 0 : texts_[place.text].drafts->target_entropy[row(place) - 1];
  }
  void advance(DraftPlace& place, int64_t tokens) const override { place.position += tokens; }

  DraftCandidate look(const DraftPlace& place, int64_t depth) const override {
    const Drafts& d = *texts_[place.text].drafts;
    const int64_t at = row(place) * d.depth + depth;
    DraftCandidate out;
    out.token = {0, d.logprob[at], d.entropy[at], d.top[at], d.margin[at], d.hidden > 0 ? d.state.subspan(at * d.hidden, d.hidden) : std::span<const float>()};
    out.accept = d.accept[at], out.alpha = d.alpha[at];
    // The coin belongs to the place and the visit, not to the policy: all policies meet the same world.
    const auto words = random_words(place.key.seed, Stream::kAck, {static_cast<uint32_t>(place.key.episode), static_cast<uint32_t>(place.text),
                                                                   static_cast<uint32_t>(place.position), static_cast<uint32_t>(depth)});
    out.accepted = uniform01(words[0]) < out.accept;
    return out;
  }

 private:
  struct Text {
    const Drafts* drafts;
    const RecordedEpisode* episode;
  };
  int64_t row(const DraftPlace& place) const { return texts_[place.text].episode->first + std::min(place.position, texts_[place.text].episode->rows - 1); }

  std::vector<std::unique_ptr<Drafts>> parts_;
  std::vector<Text> texts_;
};

}  // namespace

TT_REGISTER(DraftSourceEntry, replay,
            {.name = "replay", .doc = "recordings of real pairs of models", .make = [](const DraftLengthOptions&, const std::vector<std::string>& files) {
               return open_draft_recordings(files);
             }});

std::unique_ptr<DraftSource> open_draft_recordings(const std::vector<std::string>& files) {
  if (files.empty()) throw ConfigError("draft_length needs recordings: name them under data: {train: [...]}; `trimtab record` makes them");
  return std::make_unique<RecordedDrafts>(files);
}

}  // namespace trimtab
