"""Images that nobody has checked: found, read and decoded in one way for all that use them.

`reading` says what is an image, in which order images come and of which class they are, in
folders, class trees and tar shards; `decoding` makes pixels; `ahead` is there before the model.
"""
