// KV recipes and draft schedules: our own JSON, other programs' formats (the first byte chooses one), and the way there and back of what
// was read. `tables` draws a recipe and a schedule from its input and sends them through every format.
#include "core/error.h"
#include "core/text.h"
#include "domain/draft_schedule/draft_schedule_test_util.h"
#include "domain/draft_schedule/schedule_formats.h"
#include "domain/kv_recipe/formats.h"
#include "domain/kv_recipe/kv_recipe_test_util.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {
namespace {

KvRecipe model_recipe() {
  KvRecipe r;
  r.model = {"00c0ffee", 4, 2, 64};
  r.bits.assign(4, {8, 8});
  return r;
}

void through_formats(const KvRecipe& recipe) {
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    std::string text;
    try {
      text = write_kv_format(format.name, recipe);
    } catch (const DataError&) {
      continue;   // what a format cannot say is refused when writing
    }
    const KvRecipe back = read_kv_format(format.name, text, "written", recipe);
    FUZZ_CHECK(recipe_widths(back) == recipe_widths(recipe) && write_kv_format(format.name, back) == text);
  }
}

void through_formats(const DraftSchedule& schedule) {
  for (const DraftScheduleFormat& format : draft_schedule_formats()) {
    std::string text;
    try {
      text = write_draft_format(format.name, schedule);
    } catch (const DataError&) {
      continue;
    }
    const DraftSchedule back = read_draft_format(format.name, text, "written", schedule);
    FUZZ_CHECK(write_draft_format(format.name, back) == text);
  }
}

void run_kv_recipe(Bytes input) {
  KvRecipe recipe;
  try {
    recipe = parse_kv_recipe(text_of(input), "input.json");
  } catch (const DataError&) {
    return;
  }
  if (input.size() > (size_t{1} << 16)) return;
  FUZZ_CHECK(parse_kv_recipe(kv_recipe_json(recipe), "again") == recipe);
  through_formats(recipe);
}

void run_draft_schedule(Bytes input) {
  DraftSchedule schedule;
  try {
    schedule = parse_draft_schedule(text_of(input), "input.json");
  } catch (const DataError&) {
    return;
  }
  if (input.size() > (size_t{1} << 16)) return;
  FUZZ_CHECK(parse_draft_schedule(draft_schedule_json(schedule), "again") == schedule);
  through_formats(schedule);
}

void run_kv_formats(Bytes input) {
  if (input.empty()) return;
  const KvRecipeFormat& format = kv_recipe_formats()[input[0] % kv_recipe_formats().size()];
  KvRecipe recipe;
  try {
    recipe = read_kv_format(format.name, text_of(input.subspan(1)), "input", model_recipe());
  } catch (const DataError&) {
    return;
  }
  FUZZ_CHECK(parse_kv_recipe(kv_recipe_json(recipe), "again") == recipe);
  through_formats(recipe);
}

void run_draft_formats(Bytes input) {
  if (input.empty()) return;
  const DraftScheduleFormat& format = draft_schedule_formats()[input[0] % draft_schedule_formats().size()];
  DraftSchedule schedule;
  try {
    schedule = read_draft_format(format.name, text_of(input.subspan(1)), "input", schedule_of({plain_entry(1, 64, 3)}, 8));
  } catch (const DataError&) {
    return;
  }
  FUZZ_CHECK(parse_draft_schedule(draft_schedule_json(schedule), "again") == schedule);
  through_formats(schedule);
}

void run_tables(Bytes input) {
  Draws draws(fnv1a(text_of(input)), Stream::kTest);
  const KvRecipe recipe = random_recipe(draws);
  FUZZ_CHECK(parse_kv_recipe(kv_recipe_json(recipe), "written") == recipe);
  through_formats(recipe);
  const DraftSchedule schedule = random_schedule(draws, draws.below(2) == 1);
  FUZZ_CHECK(parse_draft_schedule(draft_schedule_json(schedule), "written") == schedule);
  through_formats(schedule);
}

}  // namespace

extern const Target kv_recipe, kv_formats, draft_schedule, draft_formats, tables;
const Target kv_recipe{"kv_recipe", run_kv_recipe};
const Target kv_formats{"kv_formats", run_kv_formats};
const Target draft_schedule{"draft_schedule", run_draft_schedule};
const Target draft_formats{"draft_formats", run_draft_formats};
const Target tables{"tables", run_tables};

}  // namespace trimtab::fuzz
