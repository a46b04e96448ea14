#pragma once
/// What the wrapped HDF5 calls share: the lock, ids that release themselves, errors, types.
/// Included by hdf5*.cpp only.

#include <hdf5.h>

#include <string>

#include "io/hdf5.h"

namespace aq::hdf5 {

/// Held during every use of the library, which is not thread-safe. Its own error printing is off.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

[[noreturn]] void fail(const char* operation, const std::string& object, const std::string& reason);
/// The innermost message of the library's error stack.
std::string library_reason();
/// Throws what the library's error stack means: a ReadError where the system refused to read, or
/// had no memory, otherwise Error{input}.
[[noreturn]] void fail_in_library(const char* operation, const std::string& object);

/// `result` of a library call, or an error when it is negative.
template <class Result>
Result check(Result result, const char* operation, const std::string& object) {
  if (result < 0) fail_in_library(operation, object);
  return result;
}

/// An id of any kind that is released at the end of the scope.
class Id {
 public:
  Id(hid_t id, const char* operation, const std::string& object)
      : id_(check(id, operation, object)) {}
  ~Id() { H5Idec_ref(id_); }
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
};

Id property_list(hid_t kind);
Id type_id(Type type);

}  // namespace aq::hdf5
