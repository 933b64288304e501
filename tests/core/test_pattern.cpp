// Pattern: what from_csr refuses, and the transpose.
#include <stdexcept>

#include "arrays.h"
#include "check.h"

using mpl_sparse::Pattern;

namespace {

void refuses(const char* text, int64_t rows, int64_t cols, const std::vector<int32_t>& row_ptr,
             const std::vector<int32_t>& col_idx) {
  CHECK_THROWS(std::invalid_argument, text,
               Pattern::from_csr(rows, cols, row_ptr.data(), static_cast<int64_t>(row_ptr.size()), col_idx.data(),
                                 static_cast<int64_t>(col_idx.size())));
}

void refusals() {
  refuses("rows must lie in [0, 2147483647], got -1", -1, 3, {0}, {});
  refuses("cols must lie in [0, 2147483647], got -1", 1, -1, {0, 0}, {});
  refuses("rows must lie", int64_t{1} << 31, 3, {0}, {});
  refuses("cols must lie", 0, int64_t{1} << 31, {0}, {});
  refuses("row_ptr must have rows + 1 = 3 entries, got 2", 2, 3, {0, 0}, {});
  refuses("row_ptr must have rows + 1 = 1 entries, got 0", 0, 3, {}, {});
  refuses("row_ptr must start at 0, got 1", 1, 3, {1, 1}, {0});
  refuses("row_ptr must end at the number of col_idx entries, 2, got 1", 1, 3, {0, 1}, {0, 1});
  refuses("row_ptr must end", 1, 3, {0, 3}, {0, 1});
  refuses("row_ptr must not fall, got 2 then 1 at row 1", 3, 3, {0, 2, 1, 2}, {0, 1});
  refuses("row_ptr must not fall", 2, 3, {0, -1, 1}, {0});
  refuses("row_ptr must not fall", 2, 3, {0, 2147483647, 1}, {0});
  refuses("col_idx must lie in [0, 3), got 3 in row 0", 1, 3, {0, 1}, {3});
  refuses("col_idx must lie in [0, 3), got -1 in row 1", 2, 3, {0, 0, 1}, {-1});
  refuses("col_idx must lie in [0, 0), got 0", 1, 0, {0, 1}, {0});
  refuses("col_idx must increase strictly within a row, got 1 then 1 in row 0", 1, 3, {0, 2}, {1, 1});
  refuses("col_idx must increase strictly", 1, 3, {0, 2}, {2, 1});
  CHECK_THROWS(std::invalid_argument, "nnz must lie", Pattern::from_csr(0, 0, nullptr, 1, nullptr, -1));
}

void accepts() {
  std::vector<int32_t> row_ptr{0, 2, 2, 3}, col_idx{0, 2, 1};
  const auto pattern = make_pattern(3, row_ptr, col_idx);
  row_ptr[1] = 99;  // copied: what the caller does later changes nothing
  col_idx[0] = 99;
  CHECK_EQ(pattern->rows(), 3);
  CHECK_EQ(pattern->cols(), 3);
  CHECK_EQ(pattern->nnz(), 3);
  CHECK_EQ(pattern->row_ptr()[1], 2);
  CHECK_EQ(pattern->col_idx()[0], 0);
  const int32_t zero = 0;
  CHECK_EQ(Pattern::from_csr(0, 0, &zero, 1, nullptr, 0)->nnz(), 0);
  CHECK_EQ(Pattern::from_csr(0, 2147483647, &zero, 1, nullptr, 0)->cols(), 2147483647);
}

void transposes(const Pattern& pattern) {
  const auto& transposed = pattern.transposed();
  CHECK_EQ(&transposed, &pattern.transposed());
  const Pattern& t = *transposed.pattern;
  CHECK_EQ(t.rows(), pattern.cols());
  CHECK_EQ(t.cols(), pattern.rows());
  CHECK_EQ(static_cast<int64_t>(transposed.order.size()), pattern.nnz());
  for (int64_t row = 0; row < t.rows(); ++row) {
    for (int32_t k = t.row_ptr()[row]; k < t.row_ptr()[row + 1]; ++k) {
      const int32_t source = transposed.order[k], source_row = t.col_idx()[k];
      CHECK_EQ(pattern.col_idx()[source], row);
      CHECK(source >= pattern.row_ptr()[source_row] && source < pattern.row_ptr()[source_row + 1]);
    }
  }
}

}  // namespace

int main() {
  refusals();
  accepts();
  Random random(2);
  for (double density : {0.0, 0.1, 0.5, 1.0}) {
    transposes(*random_pattern(7, 13, density, random));
    transposes(*random_pattern(0, 5, density, random));
    transposes(*random_pattern(5, 0, density, random));
  }
  return checks::result();
}
