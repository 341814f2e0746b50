// `trimtab fit WHAT --data RECORDING... --validation RECORDING... --out FILE`: small supervised fits on recorded decisions (fit_*.cpp).
#include "app/fit.h"

#include <algorithm>
#include <memory>

#include "app/command.h"
#include "core/error.h"
#include "core/text.h"

namespace trimtab {
namespace {

// Options that not every fit takes and that differ from what stands when nobody gives them.
std::vector<std::string> special_options(const FitArguments& a) {
  const FitArguments none;
  std::vector<std::string> out;
  const auto note = [&](const char* name, const auto& given, const auto& untouched) {
    if (given != untouched) out.push_back(name);
  };
  note("--header", a.header, none.header), note("--filter", a.filter, none.filter), note("--features", a.features, none.features);
  note("--blocks", a.blocks, none.blocks), note("--separate", a.separate, none.separate), note("--weight", a.weight, none.weight);
  note("--batch", a.batch, none.batch), note("--seed", a.seed, none.seed), note("--threshold", a.threshold, none.threshold);
  note("--hidden", a.hidden, none.hidden), note("--attention", a.attention, none.attention), note("--items", a.items, none.items);
  note("--projected", a.projected, none.projected), note("--codes", a.codes, none.codes), note("--places", a.places, none.places), note("--committed", a.committed, none.committed), note("--block", a.block, none.block);
  note("--slots", a.slots, none.slots), note("--price", a.price, none.price);
  return out;
}

int fit(const FitArguments& a) {
  const auto& fits = Registry<Fit>::instance();
  if (a.words.size() != 1) throw ConfigError(fmt::format("fit takes one word, what to fit: {}", join(fits.names(), " or ")));
  if (!fits.has(a.words[0])) {
    const std::string near = nearest(a.words[0], fits.names());
    throw ConfigError(fmt::format("fit knows no '{}'{}; it fits {}", a.words[0], near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near),
                                  join(fits.names(), ", ")));
  }
  const Fit& it = fits.get(a.words[0], "fit");
  if (a.data.empty() || a.validation.empty() || a.out.empty())
    throw ConfigError(fmt::format("fit {} needs --data, --validation and --out: trimtab fit {} {}", it.name, it.name, it.example));
  for (const std::string& option : special_options(a))
    if (std::find(it.options.begin(), it.options.end(), option) == it.options.end())
      throw ConfigError(fmt::format("fit {} takes no {}: leave it out", it.name, option));
  if (a.seed < 0) throw ConfigError("--seed must be 0 or more");
  it.run(a);
  return 0;
}

TT_REGISTER(Verb, fit,
            {.name = "fit",
             .doc = "Fit small supervised models to recorded decisions: acceptance heads, commit controllers, resident adapters",
             .declare = [](Arguments& a) {
               auto o = std::make_shared<FitArguments>();
               a.words("WHAT", o->words, join(Registry<Fit>::instance().names(), ", "));
               a.texts("--data", o->data, "recordings to learn from (`trimtab record`); acceptance: with hidden states");
               a.texts("--validation", o->validation, "recordings of other prompts");
               a.text("--out", o->out,
                      "acceptance: HEAD.safetensors, env.head=HEAD adds its rules to `trimtab eval`; commitment: CONTROLLER.ttc.safetensors, which "
                      "`trimtab eval` decodes with; learn2pd: FILTER.safetensors, env.filter=FILTER adds its rules; residents: RESIDENTS.json");
               a.integer("--epochs", o->epochs, "passes over the recordings, at most (0: acceptance 3, commitment 20, learn2pd 1000)");
               a.number("--learning-rate", o->learning_rate, "of Adam at its height (0: 0.001; learn2pd 0.003)");
               a.integer("--batch", o->batch, "acceptance: tokens of a step (0: 512); commitment: passes of a step (0: 64)");
               a.integer("--seed", o->seed, "of all draws");
               a.text("--features", o->features, "acceptance: hidden (default), the draft's hidden state; all: the token's and the round's numbers too");
               a.integer("--blocks", o->blocks, "acceptance: blocks x + SiLU(W x + b)");
               a.flag("--separate", o->separate, "acceptance: every block has weights of its own; otherwise they share them");
               a.number("--weight", o->weight, "acceptance: of rejections in the loss (default 6)");
               a.text("--header", o->header, "commitment: the controller as a C header, too");
               a.text("--hidden", o->hidden, "commitment: widths of hidden layers (default 32,64)");
               a.integer("--attention", o->attention, "commitment: heads by which positions see each other; 0: through their mean alone");
               a.integer("--items", o->items, "commitment: masked positions shown, the first so many of the window");
               a.integer("--projected", o->projected, "commitment: numbers of each position's hidden state shown; the traces must hold hidden states");
               a.integer("--codes", o->codes, "commitment: numbers that stand for each proposed token, so that it sees whether proposals agree");
               a.integer("--places", o->places, "commitment: pairs of sine and cosine of each position in the answer");
               a.integer("--committed", o->committed, "commitment: committed tokens shown beside what is proposed, the nearest to the masks");
               a.number("--threshold", o->threshold, "commitment: probability from which on a proposal is committed, at which the checkpoint is chosen (0: 0.9)");
               a.text("--filter", o->filter, "commitment: a filter of `fit learn2pd` to compare with");
               a.integer("--block", o->block, "learn2pd: positions that are judged together");
               a.integer("--slots", o->slots, "residents: adapters that can be resident at once");
               a.number("--price", o->price, "residents: quality that one load costs");
               return [o] { return fit(*o); };
             }});

}  // namespace
}  // namespace trimtab
