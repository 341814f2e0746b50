// `trimtab fit acceptance --data RECORDING... --validation RECORDING... --out HEAD`: a head that says how likely drafted tokens are to be accepted
// (envs/draft_length/acceptance_head.h), for the rules specdec_H of draft_length.
#include <cstdio>

#include "app/fit.h"
#include "envs/draft_length/acceptance_fit.h"
#include "envs/draft_length/recorded.h"

namespace trimtab {
namespace {

void fit(const FitArguments& a) {
  AcceptanceFitOptions o;
  o.features = a.features, o.blocks = a.blocks, o.share = !a.separate, o.weight = a.weight, o.seed = static_cast<uint64_t>(a.seed);
  o.epochs = or_default(a.epochs, o.epochs), o.batch = or_default(a.batch, o.batch), o.learning_rate = or_default(a.learning_rate, o.learning_rate);
  o.validate();
  const auto train = open_draft_recordings(a.data), validation = open_draft_recordings(a.validation);
  const AcceptanceHead head = fit_acceptance(*train, *validation, o, [&](const AcceptanceEpoch& e) {
    fmt::print("epoch {} of {}: loss {:.4f}, on validation {:.4f}\n", e.epoch, o.epochs, e.train, e.validation);
    std::fflush(stdout);
  });
  head.save(a.out);
  fmt::print("Written: {}, {} parameters\n", a.out, head.parameters().size());
}

TT_REGISTER(Fit, acceptance,
            {.name = "acceptance", .doc = "how likely drafted tokens are to be accepted",
             .options = {"--features", "--blocks", "--separate", "--weight", "--batch", "--seed"},
             .example = "--data TRAIN.safetensors --validation VALIDATION.safetensors --out HEAD.safetensors", .run = fit});

}  // namespace
}  // namespace trimtab
