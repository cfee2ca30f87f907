# cmake -DINPUT=page.html -DOUTPUT=page.cpp -DNAME=web_page -P embed.cmake: a file's bytes as a C++ function
# that returns them, so that the page travels inside the binary.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include \"server/web_page.h\"

namespace moesaic::server {
namespace {
constexpr unsigned char kBytes[] = {${bytes}};
}  // namespace

std::string_view ${NAME}() { return {reinterpret_cast<const char*>(kBytes), sizeof kBytes}; }

}  // namespace moesaic::server
")
