# shellcheck shell=bash
# Sourced by the other scripts, after cache.sh and with the Python of wheel-tools.txt first on the path: zig as a compiler for CMake.
export ZIG_GLOBAL_CACHE_DIR=$cache/zig ZIG_LOCAL_CACHE_DIR=$cache/zig
zig=$(python -c 'import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).with_name("zig"))')

zig_commands() {  # folder, target, CPU: the compiler's commands for one target
  mkdir -p "$1"
  local name
  for name in cc c++; do
    # zig does not read -mfpu, by which the build asks for NEON in the one file that may use it on armv7.
    cat >"$1/$name" <<EOF
#!/bin/sh
cpu=$3
case " \$* " in *" -mfpu=neon-vfpv4 "*) cpu=generic+v7a+vfp4+neon ;; esac
exec "$zig" $name -target $2 -mcpu=\$cpu "\$@"
EOF
  done
  for name in ar ranlib; do
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" $name >"$1/$name"
  done
  chmod +x "$1"/*
}
