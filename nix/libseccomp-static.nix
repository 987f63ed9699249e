# libseccomp as an archive, for static executables on glibc.
libseccomp:
libseccomp.overrideAttrs (old: {
  dontDisableStatic = true;
  configureFlags = (old.configureFlags or [ ]) ++ [ "--enable-static" ];
})
