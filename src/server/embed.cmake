# cmake -DFOLDER=web -DOUTPUT=web_files.cpp -P embed.cmake: the files of the web page as C++ arrays, so that
# they travel inside the binary.
set(type_html "text/html; charset=utf-8")
set(type_css "text/css; charset=utf-8")
set(type_js "text/javascript; charset=utf-8")
set(type_svg "image/svg+xml")
set(path_index.html "/")
set(path_docs.html "/docs")
set(path_icon.svg "/favicon.ico")
set(arrays "")
set(table "")
file(GLOB files RELATIVE ${FOLDER} ${FOLDER}/*)
foreach(name IN LISTS files)
  string(REGEX MATCH "[^.]*$" extension ${name})
  if(NOT DEFINED type_${extension})
    message(FATAL_ERROR "web/${name}: nothing here knows the content type of .${extension}")
  endif()
  if(DEFINED path_${name})
    set(path "${path_${name}}")
  else()
    set(path "/web/${name}")
  endif()
  string(MAKE_C_IDENTIFIER "k_${name}" array)
  file(READ ${FOLDER}/${name} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "constexpr unsigned char ${array}[] = {${bytes}};\n")
  string(APPEND table "    {\"${path}\", \"${type_${extension}}\",
     {reinterpret_cast<const char*>(${array}), sizeof ${array}}},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"server/web_files.h\"

namespace moesaic::server {
namespace {
${arrays}const WebFile kFiles[] = {
${table}};
}  // namespace

std::span<const WebFile> web_files() { return kFiles; }

}  // namespace moesaic::server
")
