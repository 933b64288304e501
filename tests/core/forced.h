// For programs that run once on each backend: exit code 77 tells ctest that this machine cannot run the one asked for.
#pragma once

#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>

#include "check.h"
#include "mpl_sparse/backend.h"

inline void skip_unless_backend_runs() {
  const char* forced = std::getenv("MPL_SPARSE_BACKEND");
  try {
    const std::string in_use = mpl_sparse::backend();
    if (forced && *forced) CHECK_EQ(in_use, std::string(forced));
    std::cout << "backend " << in_use << std::endl;
  } catch (const std::invalid_argument& e) {
    std::cout << "skipped: " << e.what() << std::endl;
    std::exit(77);
  }
}
