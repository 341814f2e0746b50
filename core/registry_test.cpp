#include "core/registry.h"

#include <gtest/gtest.h>

namespace trimtab {
namespace {

struct Unit {
  std::string name, doc;
  int value = 0;
};
TT_REGISTER(Unit, first, {.name = "set_encoder", .doc = "", .value = 1});
TT_REGISTER(Unit, second, {.name = "mlp", .doc = "", .value = 2});

TEST(Registry, FindsWhatWasRegistered) {
  EXPECT_EQ(Registry<Unit>::instance().get("mlp", "policy").value, 2);
  EXPECT_EQ(Registry<Unit>::instance().names(), (std::vector<std::string>{"mlp", "set_encoder"}));
}

TEST(Registry, NamesTheNearestWhenAskedForTheUnknown) {
  try {
    Registry<Unit>::instance().get("set_encodre", "policy");
    FAIL() << "an unknown unit was found";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(
        error.what(),
        "unknown policy 'set_encodre', did you mean 'set_encoder'?; `trimtab list` shows what there is");
  }
}

TEST(RegistryDeathTest, TwoUnitsOfOneNameAreOurMistake) {
  EXPECT_DEATH(Registry<Unit>::instance().add({.name = "mlp", .doc = "", .value = 3}),
               "two units are called 'mlp'");
}

TEST(Nearest, ForgivesTypingMistakesOnly) {
  const std::vector<std::string> known = {"learning_rate", "clip", "gamma", "lr"};
  EXPECT_EQ(nearest("learning_rat", known), "learning_rate");
  EXPECT_EQ(nearest("learnign_rate", known), "learning_rate");
  EXPECT_EQ(nearest("CLIP", known), "clip");
  EXPECT_EQ(nearest("cilp", known), "clip");
  EXPECT_EQ(nearest("rl", known), "lr");
  EXPECT_EQ(nearest("temperature", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest(std::string(1000, 'x'), known), "");
  EXPECT_EQ(nearest("clip", {}), "");
}

}  // namespace
}  // namespace trimtab
