// `trimtab fit acceptance --data RECORDING... --validation RECORDING... --out HEAD`: a head that says how likely drafted tokens are to be accepted
// (envs/draft_length/acceptance_head.h), for the rules specdec_H of draft_length.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "app/command.h"
#include "core/error.h"
#include "envs/draft_length/acceptance_fit.h"
#include "envs/draft_length/recorded.h"

namespace trimtab {
namespace {

struct FitVerbOptions {
  std::vector<std::string> words, data, validation;
  std::string out;
  bool separate = false;
  int64_t seed = 1;
  AcceptanceFitOptions fit;
};

int fit(FitVerbOptions o) {
  if (o.words.size() != 1 || o.words[0] != "acceptance")
    throw ConfigError("fit takes one word, what to fit: trimtab fit acceptance --data TRAIN.safetensors --validation VALIDATION.safetensors --out HEAD.safetensors");
  if (o.data.empty() || o.validation.empty() || o.out.empty()) throw ConfigError("fit acceptance needs --data RECORDING..., --validation RECORDING... and --out HEAD.safetensors");
  if (o.seed < 0) throw ConfigError("--seed must be 0 or more");
  o.fit.seed = static_cast<uint64_t>(o.seed), o.fit.share = !o.separate;
  o.fit.validate();
  const auto train = open_draft_recordings(o.data), validation = open_draft_recordings(o.validation);
  const AcceptanceHead head = fit_acceptance(*train, *validation, o.fit, [&](const AcceptanceEpoch& e) {
    fmt::print("epoch {} of {}: loss {:.4f}, on validation {:.4f}\n", e.epoch, o.fit.epochs, e.train, e.validation);
    std::fflush(stdout);
  });
  head.save(o.out);
  fmt::print("Written: {}, {} parameters\n", o.out, head.parameters().size());
  return 0;
}

TT_REGISTER(Verb, fit,
            {.name = "fit",
             .doc = "Fit a head that says how likely drafted tokens are to be accepted",
             .declare = [](Arguments& a) {
               auto o = std::make_shared<FitVerbOptions>();
               a.words("WHAT", o->words, "acceptance");
               a.texts("--data", o->data, "recordings to learn from (`trimtab record`), with hidden states");
               a.texts("--validation", o->validation, "recordings of other prompts");
               a.text("--out", o->out, "the head, a safetensors file: env.head=HEAD adds its rules to `trimtab eval`");
               a.text("--features", o->fit.features, "hidden (default): the draft's hidden state; all: the token's and the round's numbers too");
               a.integer("--blocks", o->fit.blocks, "blocks x + SiLU(W x + b)");
               a.flag("--separate", o->separate, "every block has weights of its own; otherwise they share them");
               a.number("--weight", o->fit.weight, "of rejections in the loss (default 6)");
               a.number("--learning-rate", o->fit.learning_rate, "of Adam at its height (default 0.001)");
               a.integer("--epochs", o->fit.epochs, "passes over the recordings");
               a.integer("--batch", o->fit.batch, "tokens of a step");
               a.integer("--seed", o->seed, "of all draws");
               return [o] { return fit(*o); };
             }});

}  // namespace
}  // namespace trimtab
