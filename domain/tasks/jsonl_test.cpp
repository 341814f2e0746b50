#include "domain/tasks/jsonl.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/test_support.h"

namespace trimtab {
namespace {

class Jsonl : public testing::Test {
 protected:
  std::filesystem::path file(const std::string& contents, const std::string& name = "tasks.jsonl") {
    std::ofstream(folder_.path() / name, std::ios::binary) << contents;
    return folder_.path() / name;
  }
  std::string message_of(const std::string& contents) {
    try {
      read_jsonl(file(contents));
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }
  TemporaryFolder folder_;
};

TEST_F(Jsonl, ReadsBothForms) {
  const auto problems =
      read_jsonl(file("\xef\xbb\xbf{\"question\": \"Natalia sold 48?\", \"answer\": \"48/2 = "
                      "<<48/2=24>>24\\n48+24 = 72\\n#### 72\"}\r\n"
                      "\n  \n{\"prompt\": \"2+2=\", \"answer\": 4, \"source\": {\"a\": 1}}\n{\"prompt\": "
                      "\"half\", \"answer\": \"1/2\"}"));
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_EQ(problems[0].problem.prompt, "Natalia sold 48?");
  EXPECT_EQ(problems[0].problem.answer, "72");
  EXPECT_EQ(problems[0].solution, "48/2 = <<48/2=24>>24\n48+24 = 72\n");
  EXPECT_EQ(problems[1].problem.answer, "4");
  EXPECT_EQ(problems[1].line, 4);
  EXPECT_EQ(problems[1].solution, "");
  EXPECT_EQ(score_free_text(problems[0].problem, "so she sold 72 clips."), 1);
  EXPECT_EQ(score_free_text(problems[0].problem, "#### 72.0"), 1);
  EXPECT_EQ(score_free_text(problems[0].problem, "72, no: #### 71"), 0);
  EXPECT_EQ(score_free_text(problems[0].problem, "no idea"), 0);
  EXPECT_EQ(score_free_text(problems[2].problem, "\\boxed{0.5}"), 1);
}

TEST_F(Jsonl, MistakesNameFileLineAndCure) {
  const auto says = [&](const std::string& line, const std::string& part) {
    const std::string message = message_of("{\"prompt\": \"a\", \"answer\": \"b\"}\n" + line + "\n");
    EXPECT_NE(message.find("tasks.jsonl:2: "), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  says("{\"prompt\": \"a\"", "one whole object");
  says("[1]", "got array");
  says("{\"answer\": \"1\"}", "needs 'question'");
  says("{\"prompt\": \"a\", \"question\": \"a\", \"answer\": \"1\"}", "keep one");
  says("{\"prompt\": \"a\"}", "'answer' is missing");
  says("{\"prompt\": 5, \"answer\": \"1\"}", "'prompt' must be text, got number");
  says("{\"prompt\": \"a\", \"answer\": null}", "'answer' must be text, got null");
  says("{\"prompt\": \" \", \"answer\": \"1\"}", "'prompt' is empty");
  says("{\"question\": \"a\", \"answer\": \"72\"}", "#### RESULT");
  says("{\"prompt\": \"\xff\", \"answer\": \"1\"}", "not JSON");
}

TEST_F(Jsonl, AFileWithoutProblemsIsAnError) {
  for (const char* contents : {"", "\n\n", "  \r\n", "\xef\xbb\xbf"})
    EXPECT_NE(message_of(contents).find("no problems in it"), std::string::npos);
  EXPECT_THROW(read_jsonl(folder_.path() / "absent.jsonl"), DataError);
}

TEST_F(Jsonl, SharedPromptsAreFoundWhateverTheirSpaces) {
  const auto train =
      read_jsonl(file("{\"prompt\": \"a b\", \"answer\": \"1\"}\n{\"prompt\": \"c\", \"answer\": \"1\"}"));
  const auto test = read_jsonl(file(
      "{\"prompt\": \"d\", \"answer\": \"1\"}\n{\"prompt\": \" a\\n b \", \"answer\": \"2\"}", "t.jsonl"));
  EXPECT_EQ(shared_prompts(train, test), std::vector<std::string>{"line 2 (also line 1): a b"});
  EXPECT_TRUE(shared_prompts(train, {test[0]}).empty());
}

}  // namespace
}  // namespace trimtab
