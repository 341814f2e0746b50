// Sudoku of four rows, columns and boxes: "sudoku 1..4.4..214.4.2.=" asks for the sixteen digits row by row. Which cells are easy
// depends on the puzzle, so the best order to fill them in is not from left to right; there are no worked steps, a reply is the answer.
// Every puzzle has one solution. Tier: number of empty cells.
#include <algorithm>
#include <array>
#include <utility>

#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::string_view kPrefix = "sudoku ";
constexpr int kSide = 4, kCells = kSide * kSide, kLeastEmpty = 4, kMostEmpty = 12;   // four clues are the fewest that can do

using Grid = std::array<int, kCells>;   // digits from 0

bool fits(const Grid& grid, int cell, int digit) {
  for (int before = 0; before < cell; ++before) {
    const int row = cell / kSide, column = cell % kSide, other_row = before / kSide, other_column = before % kSide;
    const bool same_box = row / 2 == other_row / 2 && column / 2 == other_column / 2;
    if (grid[before] == digit && (row == other_row || column == other_column || same_box)) return false;
  }
  return true;
}

void complete(Grid& grid, int cell, std::vector<Grid>& found) {
  if (cell == kCells) return found.push_back(grid);
  for (int digit = 0; digit < kSide; ++digit)
    if (fits(grid, cell, digit)) grid[cell] = digit, complete(grid, cell + 1, found);
}

const std::vector<Grid>& solved_grids() {
  static const std::vector<Grid> all = [] {
    Grid grid = {};
    std::vector<Grid> found;
    complete(grid, 0, found);
    return found;
  }();
  return all;   // 288
}

std::string text_of(const Grid& grid) {
  std::string out;
  for (const int digit : grid) out += static_cast<char>('1' + digit);
  return out;
}

// The solutions of sixteen cells, '.' where empty.
std::vector<std::string> solutions(std::string_view cells) {
  std::vector<std::string> out;
  for (const Grid& grid : solved_grids()) {
    bool agrees = true;
    for (size_t i = 0; i < kCells && agrees; ++i) agrees = cells[i] == '.' || cells[i] == '1' + grid[i];
    if (agrees) out.push_back(text_of(grid));
  }
  return out;
}

// Empties cells in random order as long as one solution is left; fewer than asked for where no more can be.
std::string draw_cells(Draws& draws, int empty) {
  std::string cells = text_of(solved_grids()[draws.below(static_cast<uint32_t>(solved_grids().size()))]);
  std::array<size_t, kCells> order;
  for (size_t i = 0; i < kCells; ++i) order[i] = i;
  for (size_t i = 0; i < kCells && empty > 0; ++i) {
    std::swap(order[i], order[i + draws.below(static_cast<uint32_t>(kCells - i))]);
    char& cell = cells[order[i]];
    const char digit = std::exchange(cell, '.');
    if (solutions(cells).size() == 1) --empty;
    else cell = digit;
  }
  return cells;
}

struct SudokuOptions : SuiteOptions {
  SudokuOptions() { tiers = {4, 6, 8, 10}; }
  void describe(Fields& f) { describe_common(f, kLeastEmpty, kMostEmpty); }
};

class Sudoku final : public Suite {
 public:
  using Options = SudokuOptions;
  explicit Sudoku(const Options& options) : Suite("sudoku", options, kLeastEmpty) {}

  std::string alphabet() const override { return sorted_alphabet("sudok 1234.=#;"); }
  size_t max_prompt_length() const override { return kPrefix.size() + kCells + 1; }
  size_t max_reply_length() const override { return kCells + 2; }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    for (;;) {
      const std::string cells = draw_cells(draws, tier);
      if (std::count(cells.begin(), cells.end(), '.') == tier) return prompt_of(cells);
    }
  }
  std::string solve(std::string_view prompt) const override {
    const std::vector<std::string> all = solutions(prompt.substr(kPrefix.size(), kCells));
    TT_CHECK(all.size() == 1, "the puzzle '{}' has {} solutions", prompt, all.size());
    return all.front();
  }
  std::string work(std::string_view prompt, Scribe&) const override { return solve(prompt); }
  // The digit of the only empty cell.
  Example fact(Draws& draws) const override {
    const std::string cells = draw_cells(draws, 1);
    std::string prompt = prompt_of(cells);
    const char digit = solve(prompt)[cells.find('.')];
    return {std::move(prompt), {digit, ';'}, 0, 1};
  }

 private:
  static std::string prompt_of(const std::string& cells) { return std::string(kPrefix) + cells + "="; }
};

TT_REGISTER(SuiteEntry, sudoku, (suite_entry<Sudoku>("sudoku", "four by four, one solution, without worked steps")));

}  // namespace
}  // namespace trimtab
