package check

import (
	"context"
	"fmt"

	"github.com/monocrio/monocrio/internal/image/medium"
)

// Media reads what is in the folder of images, as far as that is quick: which images there
// are. What is in compressed archives is not told, and layers are not read.
func Media(dir string) Look {
	return func(ctx context.Context) (list []Finding) {
		all, err := medium.Find(dir)
		if err != nil {
			list = append(list, found("images_dir", Fail, "mount it, or correct images_dir", "%v", err))
		} else if len(all) == 0 {
			return []Finding{found("images_dir", Warn, "mount it, or copy layouts and archives there", "there is no image in %s", dir)}
		}
		images, packed := 0, 0
		for _, f := range all {
			if medium.Compressed(f.Path) {
				packed++
				continue
			}
			m, err := medium.Open(ctx, f.Path, "", nil)
			if err != nil {
				list = append(list, found("images_dir", Fail, "", "%v", err))
				continue
			}
			images += len(m.Images)
			if err := m.Close(); err != nil {
				list = append(list, found("images_dir", Fail, "", "%v", err))
			}
		}
		if len(list) > 0 {
			return list
		}
		more := ""
		if packed > 0 {
			more = fmt.Sprintf("; compressed, and not read: %d", packed)
		}
		return []Finding{ok("images_dir", "files: %d, images in them: %d%s", len(all)-packed, images, more)}
	}
}
