#include "mpl_sparse/pattern.h"

#include <limits>
#include <stdexcept>
#include <string>

#include "plan_cache.h"

namespace mpl_sparse {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check_size(const char* name, int64_t value) {
  if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
    refuse(std::string(name) + " must lie in [0, 2147483647], got " + std::to_string(value));
  }
}

}  // namespace

Pattern::Pattern(int64_t rows, int64_t cols, std::vector<int32_t> row_ptr, std::vector<int32_t> col_idx)
    : rows_(rows), cols_(cols), row_ptr_(std::move(row_ptr)), col_idx_(std::move(col_idx)), plans_(new PlanCache) {}

Pattern::~Pattern() = default;

std::shared_ptr<const Pattern> Pattern::from_csr(int64_t rows, int64_t cols, const int32_t* row_ptr, int64_t row_ptr_size,
                                                 const int32_t* col_idx, int64_t nnz) {
  check_size("rows", rows);
  check_size("cols", cols);
  check_size("nnz", nnz);
  if (row_ptr_size != rows + 1) {
    refuse("row_ptr must have rows + 1 = " + std::to_string(rows + 1) + " entries, got " + std::to_string(row_ptr_size));
  }
  // Copied first, checked on the copy: what another thread writes meanwhile cannot pass unchecked.
  std::vector<int32_t> row_copy(row_ptr, row_ptr + row_ptr_size);
  std::vector<int32_t> col_copy(col_idx, col_idx + nnz);
  if (row_copy.front() != 0) refuse("row_ptr must start at 0, got " + std::to_string(row_copy.front()));
  if (row_copy.back() != nnz) {
    refuse("row_ptr must end at the number of col_idx entries, " + std::to_string(nnz) + ", got " +
           std::to_string(row_copy.back()));
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (row_copy[row + 1] < row_copy[row]) {
      refuse("row_ptr must not fall, got " + std::to_string(row_copy[row]) + " then " + std::to_string(row_copy[row + 1]) +
             " at row " + std::to_string(row));
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    int64_t previous = -1;
    for (int32_t k = row_copy[row]; k < row_copy[row + 1]; ++k) {
      const int64_t col = col_copy[k];
      if (col < 0 || col >= cols) {
        refuse("col_idx must lie in [0, " + std::to_string(cols) + "), got " + std::to_string(col) + " in row " +
               std::to_string(row));
      }
      if (col <= previous) {
        refuse("col_idx must increase strictly within a row, got " + std::to_string(previous) + " then " + std::to_string(col) +
               " in row " + std::to_string(row));
      }
      previous = col;
    }
  }
  return std::shared_ptr<const Pattern>(new Pattern(rows, cols, std::move(row_copy), std::move(col_copy)));
}

const TransposedPattern& Pattern::transposed() const { return plans_->transposed(*this); }

const TransposedPattern& PlanCache::transposed(const Pattern& pattern) {
  State& state = state_.get();
  std::call_once(state.transposed, [&] {
    std::vector<int32_t> row_ptr(pattern.cols() + 1, 0), col_idx(pattern.nnz()), order(pattern.nnz());
    for (int64_t k = 0; k < pattern.nnz(); ++k) ++row_ptr[pattern.col_idx()[k] + 1];
    for (int64_t col = 0; col < pattern.cols(); ++col) row_ptr[col + 1] += row_ptr[col];
    std::vector<int32_t> next(row_ptr.begin(), row_ptr.end() - 1);
    for (int64_t row = 0; row < pattern.rows(); ++row) {
      for (int32_t k = pattern.row_ptr()[row]; k < pattern.row_ptr()[row + 1]; ++k) {
        const int32_t place = next[pattern.col_idx()[k]]++;
        col_idx[place] = static_cast<int32_t>(row);
        order[place] = k;
      }
    }
    state.transpose.pattern =
        Pattern::from_csr(pattern.cols(), pattern.rows(), row_ptr.data(), pattern.cols() + 1, col_idx.data(), pattern.nnz());
    state.transpose.order = std::move(order);
  });
  return state.transpose;
}

}  // namespace mpl_sparse
