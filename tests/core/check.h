// Checks that count failures and go on. A test is a program: main() calls its parts and returns checks::result().
#pragma once

#include <cstdlib>
#include <iostream>
#include <string>

namespace checks {

inline int failures = 0;

inline std::ostream& fail(const char* file, int line) {
  ++failures;
  return std::cerr << file << ":" << line << ": ";
}

inline int result() {
  if (failures) std::cerr << failures << " failed" << std::endl;
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace checks

#define CHECK(condition)                                                                        \
  do {                                                                                          \
    if (!(condition)) checks::fail(__FILE__, __LINE__) << "not true: " #condition << std::endl; \
  } while (0)

#define CHECK_EQ(actual, expected)                                                                                 \
  do {                                                                                                             \
    const auto a_ = (actual);                                                                                      \
    const auto e_ = (expected);                                                                                    \
    if (!(a_ == e_)) checks::fail(__FILE__, __LINE__) << #actual " is " << a_ << ", expected " << e_ << std::endl; \
  } while (0)

// The statement must throw this very kind of exception, with `text` in its message.
#define CHECK_THROWS(Exception, text, statement)                                                                   \
  do {                                                                                                             \
    try {                                                                                                          \
      statement;                                                                                                   \
      checks::fail(__FILE__, __LINE__) << "nothing thrown by " #statement << std::endl;                            \
    } catch (const Exception& e) {                                                                                 \
      if (std::string(e.what()).find(text) == std::string::npos) {                                                 \
        checks::fail(__FILE__, __LINE__) << "\"" << e.what() << "\" does not say \"" << text << "\"" << std::endl; \
      }                                                                                                            \
    }                                                                                                              \
  } while (0)
