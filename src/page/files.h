#pragma once
/// The files of this folder that go into every page; built from them by tools/cmake/embed.cmake.

#include <string_view>

namespace aq::page_files {

extern const std::string_view kHtml;    // page.html
extern const std::string_view kStyle;   // page.css
extern const std::string_view kScript;  // page.js

}  // namespace aq::page_files
