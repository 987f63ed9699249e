"sha256-03kY78789QFLIlz4oeb/yJb+UP4i7IWbnyomGOcBApo="
