"""Vision features: what a model's eye made of the frames, kept beside the log, and searched by picture.

One vector for each moment that a model sees as one (of Qwen3-VL: a pair of frames), of which two are near each other
(cosine) where the pictures look alike. They come from the model that watched, at no cost beyond their bytes; models
that give none leave nothing here. No part of the events, and none of the configuration hash.
"""
