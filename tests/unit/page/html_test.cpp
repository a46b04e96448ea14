#include "page/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace aq {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Html, EscapesWhatNamesMayHold) {
  EXPECT_EQ(escape_html("a<b>&\"'c"), "a&lt;b&gt;&amp;&quot;&#39;c");
  EXPECT_EQ(escape_html("\xff|ä|"), "\xef\xbf\xbd|ä|") << "not UTF-8, and UTF-8";
  EXPECT_EQ(escape_html(std::string_view("a\0b", 3)), "a\xef\xbf\xbd\x62");
  EXPECT_EQ(escape_script(R"({"a":"</script><!--"})"), R"({"a":"\u003c/script>\u003c!--"})");
}

TEST(Html, Numbers) {
  EXPECT_EQ(significant(0.0012), "0.00120");
  EXPECT_EQ(significant(0.000012345), "1.23e-5");
  EXPECT_EQ(significant(123.4), "123");
  EXPECT_EQ(significant(0), "0");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(-1234), "-1,234");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(counted(1, "layer", "layers"), "1 layer");
  EXPECT_EQ(number_cell(std::nan(""), "nan").html, missing_cell().html);
}

TEST(HtmlTable, OfOneRun) {
  HtmlTable table({{"Kind", false}}, {{"Error", true, "a \"hint\""}}, {"run"});
  table.add({text_cell("<q>"), number_cell(0.5, "0.50")});
  EXPECT_EQ(table.html(),
            "<div class=\"wide\"><table><thead><tr><th scope=\"col\">Kind</th><th scope=\"col\" "
            "class=\"n\" title=\"a &quot;hint&quot;\">Error</th></tr></thead><tbody><tr>"
            "<td>&lt;q&gt;</td><td class=\"n\" data-v=\"0.5\">0.50</td></tr>\n</tbody>"
            "</table></div>\n");
}

TEST(HtmlTable, OfSeveralRuns) {
  HtmlTable one({{"Kind", false}}, {{"Error"}}, {"a<", "b"});
  one.add({text_cell("q"), count_cell(1), count_cell(2)});
  EXPECT_THAT(one.html(), HasSubstr(">a&lt;</th>"));
  EXPECT_THAT(one.html(), Not(HasSubstr("colspan")));
  HtmlTable two({{"Kind", false}}, {{"Error"}, {"Bits"}}, {"a", "b"});
  two.add({text_cell("q"), count_cell(1), count_cell(2), count_cell(3), missing_cell()});
  EXPECT_THAT(two.html(), HasSubstr("class=\"run\" colspan=\"2\">b</th>"));
  EXPECT_THAT(two.html(), HasSubstr("<td class=\"n run\" data-v=\"3\">3</td>"));
}

}  // namespace
}  // namespace aq
