#include <algorithm>

#include "io/hdf5_library.h"

namespace aq::hdf5 {
namespace {

/// A fixed-length string type of `length` bytes.
Id text_type(std::size_t length, const std::string& object) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, std::max<std::size_t>(1, length));
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return {type, "make an HDF5 type", object};
}

std::string attribute_text(const Object& object, const std::string& name) {
  return str(object.text(), ", attribute ", name);
}

/// Writes an attribute; replaces an older one of that name.
void write_attribute(const Object& object, const std::string& name, hid_t type, hid_t space,
                     const void* values) {
  constexpr const char* operation = "write the attribute";
  const std::string text = attribute_text(object, name);
  if (check(H5Aexists(object.id(), name.c_str()), operation, text) > 0)
    check(H5Adelete(object.id(), name.c_str()), operation, text);
  const Id attribute(H5Acreate2(object.id(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                     operation, text);
  check(H5Awrite(attribute, type, values), operation, text);
}

Id line_space(Index count, const std::string& object) {
  const auto length = static_cast<hsize_t>(count);
  return {count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &length, nullptr),
          "write the attribute", object};
}

}  // namespace

void write_text(const Object& object, const std::string& name, const std::string& text) {
  const Lock lock;
  const std::string padded = text.empty() ? std::string(1, '\0') : text;
  write_attribute(object, name, text_type(text.size(), object.text()),
                  line_space(-1, object.text()), padded.data());
}

void write_texts(const Object& object, const std::string& name,
                 const std::vector<std::string>& texts) {
  const Lock lock;
  std::size_t width = 1;
  for (const std::string& text : texts) width = std::max(width, text.size());
  std::string padded(width * std::max<std::size_t>(1, texts.size()), '\0');
  for (std::size_t i = 0; i < texts.size(); ++i) texts[i].copy(&padded[i * width], width);
  write_attribute(object, name, text_type(width, object.text()),
                  line_space(static_cast<Index>(texts.size()), object.text()), padded.data());
}

void write_numbers(const Object& object, const std::string& name, Type type, Index count,
                   const void* values) {
  const Lock lock;
  write_attribute(object, name, type_id(type), line_space(count, object.text()), values);
}

namespace {

std::string read_variable_text(hid_t attribute, hid_t type, const std::string& object) {
  char* value = nullptr;
  check(H5Aread(attribute, type, &value), "read the attribute", object);
  std::string text = value == nullptr ? "" : value;
  H5free_memory(value);
  return text;
}

}  // namespace

std::optional<std::string> read_text(const Object& object, const std::string& name) {
  constexpr const char* operation = "read the attribute";
  const Lock lock;
  const std::string label = attribute_text(object, name);
  if (check(H5Aexists(object.id(), name.c_str()), operation, label) == 0) return std::nullopt;
  const Id attribute(H5Aopen(object.id(), name.c_str(), H5P_DEFAULT), operation, label);
  const Id type(H5Aget_type(attribute), operation, label);
  const Id space(H5Aget_space(attribute), operation, label);
  if (H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_type(space) != H5S_SCALAR)
    fail(operation, label, "it is not a text");
  if (H5Tis_variable_str(type) > 0) return read_variable_text(attribute, type, label);
  std::string text(H5Tget_size(type), '\0');
  check(H5Aread(attribute, type, text.data()), operation, label);
  text.resize(std::min(text.size(), text.find_last_not_of('\0') + 1));
  return text;
}

namespace {

/// An attribute that must be there, with its type and space.
struct OpenAttribute {
  std::string label;
  Id attribute, type, space;

  OpenAttribute(const Object& object, const std::string& name)
      : label(attribute_text(object, name)),
        attribute(open(object, name, label)),
        type(H5Aget_type(attribute), kRead, label),
        space(H5Aget_space(attribute), kRead, label) {}

  static constexpr const char* kRead = "read the attribute";

  static Id open(const Object& object, const std::string& name, const std::string& label) {
    if (check(H5Aexists(object.id(), name.c_str()), kRead, label) == 0)
      fail(kRead, label, "it is missing");
    return {H5Aopen(object.id(), name.c_str(), H5P_DEFAULT), kRead, label};
  }
  /// The length of a list of at most `most` elements of that class; else an error.
  std::size_t list_length(H5T_class_t wanted, hsize_t most, const char* what) const {
    hsize_t length = 0;
    if (H5Tget_class(type) != wanted || H5Sget_simple_extent_ndims(space) != 1 ||
        H5Sget_simple_extent_dims(space, &length, nullptr) != 1 || length > most)
      fail(kRead, label, str("it is not a short list of ", what));
    return length;
  }
  void read(hid_t memory_type, void* out) const {
    check(H5Aread(attribute, memory_type, out), kRead, label);
  }
};

}  // namespace

std::vector<Index> read_integers(const Object& object, const std::string& name) {
  const Lock lock;
  const OpenAttribute opened(object, name);
  std::vector<Index> values(opened.list_length(H5T_INTEGER, 64, "integers"));
  opened.read(type_id(Type::i64), values.data());
  return values;
}

void read_number(const Object& object, const std::string& name, Type memory_type, void* value) {
  const Lock lock;
  const OpenAttribute opened(object, name);
  const bool whole = memory_type == Type::i64;
  if (H5Tget_class(opened.type) != (whole ? H5T_INTEGER : H5T_FLOAT) ||
      H5Sget_simple_extent_type(opened.space) != H5S_SCALAR)
    fail(OpenAttribute::kRead, opened.label, whole ? "it is no integer" : "it is no number");
  opened.read(type_id(memory_type), value);
}

std::vector<std::string> read_texts(const Object& object, const std::string& name) {
  const Lock lock;
  const OpenAttribute opened(object, name);
  const std::size_t count = opened.list_length(H5T_STRING, 4096, "texts");
  if (H5Tis_variable_str(opened.type) > 0)
    fail(OpenAttribute::kRead, opened.label, "its texts have no fixed length");
  const std::size_t width = H5Tget_size(opened.type);
  std::string padded(width * std::max<std::size_t>(1, count), '\0');
  if (count > 0) opened.read(opened.type, padded.data());
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string text = padded.substr(i * width, width);
    texts.push_back(text.substr(0, text.find('\0')));
  }
  return texts;
}

}  // namespace aq::hdf5
