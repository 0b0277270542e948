# cmake -DOUTPUT=FILE -DDIRECTORY=DIR -DNAMES=page.html,page.css -P embed.cmake
# Writes a C header with the bytes of each file: `static const unsigned char mm_page_html[]`.
string(REPLACE "," ";" NAMES "${NAMES}")
set(text "/* Made by cmake/embed.cmake from the files of ${NAMES}; do not edit. */\n")
foreach(name IN LISTS NAMES)
    file(READ ${DIRECTORY}/${name} bytes HEX)
    string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
    string(REGEX REPLACE "((0x..,){16})" "\\1\n    " bytes "${bytes}")
    string(REGEX REPLACE "[^a-z]" "_" variable ${name})
    string(APPEND text "static const unsigned char mm_${variable}[] = {\n    ${bytes}};\n")
endforeach()
file(WRITE ${OUTPUT} "${text}")
