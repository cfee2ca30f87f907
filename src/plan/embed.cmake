# cmake -DFOLDER=data -DOUTPUT=shipped.cpp -P embed.cmake: the planner's data files as C++ arrays, so that
# they travel inside the binary.
set(code "#include \"plan/shipped.h\"\n\nnamespace moesaic::plan {\n")
foreach(pair "models:models.json" "hardware:hardware.yaml" "efficiency:efficiency.yaml")
  string(REPLACE ":" ";" pair "${pair}")
  list(GET pair 0 name)
  list(GET pair 1 file)
  file(READ ${FOLDER}/${file} bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND code "namespace {
constexpr unsigned char k_${name}[] = {${bytes}};
}  // namespace
std::string_view shipped_${name}() {
  return {reinterpret_cast<const char*>(k_${name}), sizeof k_${name}};
}
")
endforeach()
file(WRITE ${OUTPUT} "${code}}  // namespace moesaic::plan\n")
