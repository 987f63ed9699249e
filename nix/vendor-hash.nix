"sha256-Y8FJnX9SPtdo+eSvsxMUCJ+QZYwcA72Yx2wmgKBpdlk="
