#include "domain/tasks/jsonl.h"

#include <map>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "domain/tasks/answers.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

std::string without_extra_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!space) {
      out += c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

class LineReader {
 public:
  LineReader(const std::filesystem::path& file, int line) : file_(file), line_(line) {}

  FileProblem read(std::string_view text) const {
    const Json object = parse(text);
    const bool question = object.contains("question"), prompt = object.contains("prompt");
    if (question == prompt)
      fail(question ? "has both 'question' and 'prompt'; keep one"
                    : "needs 'question' (GSM8K) or 'prompt', and 'answer'");
    const std::string asked = text_of(object, question ? "question" : "prompt");
    std::string answer = text_of(object, "answer"), solution;
    if (question) {
      const auto final_answer = hash_answer(answer);
      if (!final_answer)
        fail("the 'answer' has no '#### RESULT'; add it, or call the question 'prompt' for a bare answer");
      solution = answer.substr(0, answer.rfind("####"));
      answer = *final_answer;
    }
    return {{"jsonl:" + text_hash(without_extra_spaces(asked)), asked, answer, 0}, solution, line_};
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw DataError(fmt::format("{}:{}: {}", file_.string(), line_, message));
  }
  Json parse(std::string_view text) const {
    Json object;
    try {
      object = Json::parse(text);
    } catch (const Json::exception& error) {
      fail(fmt::format("not JSON ({}); a line must be one whole object", error.what()));
    }
    if (!object.is_object()) fail(fmt::format("expected an object {{...}}, got {}", object.type_name()));
    return object;
  }
  std::string text_of(const Json& object, const char* key) const {
    const auto it = object.find(key);
    if (it == object.end()) fail(fmt::format("'{}' is missing", key));
    const bool bare_number = it->is_number() && std::string_view(key) == "answer";
    if (!it->is_string() && !bare_number)
      fail(fmt::format("'{}' must be text, got {}", key, it->type_name()));
    std::string text = bare_number ? it->dump() : it->get<std::string>();
    if (without_extra_spaces(text).empty())
      fail(fmt::format("'{}' is empty; fill it in or remove the line", key));
    return text;
  }
  const std::filesystem::path& file_;
  int line_;
};

}  // namespace

std::vector<FileProblem> read_jsonl(const std::filesystem::path& file) {
  const std::string contents = read_file(file);
  std::string_view rest = contents;
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);  // a byte-order mark
  std::vector<FileProblem> problems;
  for (int line = 1; !rest.empty(); ++line) {
    const size_t end = rest.find('\n');
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (text.find_first_not_of(" \t\r") != std::string_view::npos)
      problems.push_back(LineReader(file, line).read(text));
  }
  if (problems.empty())
    throw DataError(
        fmt::format("{}: no problems in it; expected one JSON object per line, such as "
                    "{{\"prompt\": \"2+2=\", \"answer\": \"4\"}}",
                    file.string()));
  return problems;
}

double score_free_text(const Problem& problem, std::string_view reply) {
  const auto answer = find_answer(reply);
  return answer && answers_equal(*answer, problem.answer) ? 1.0 : 0.0;
}

std::vector<std::string> shared_prompts(const std::vector<FileProblem>& train,
                                        const std::vector<FileProblem>& held_out) {
  std::map<std::string_view, int> lines;
  for (const FileProblem& p : train) lines.emplace(p.problem.id, p.line);
  std::vector<std::string> out;
  for (const FileProblem& p : held_out) {
    if (const auto it = lines.find(p.problem.id); it != lines.end())
      out.push_back(fmt::format("line {} (also line {}): {}", p.line, it->second,
                                without_extra_spaces(p.problem.prompt).substr(0, 60)));
  }
  return out;
}

}  // namespace trimtab
