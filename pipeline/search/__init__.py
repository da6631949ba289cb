"""Events by words and by meaning, from an index beside the log that is made from it and can be made again at any time.

search = Search("LOG")
search.update()
for hit in search.find("red circle", kinds=["leaves"], limit=5):
    print(hit.name, hit.event["start_us"], hit.event["text"])
"""

from pipeline.search.embed import Embedder, installed_embedder
from pipeline.search.search import Hit, NotIndexed, Search

__all__ = ["Embedder", "Hit", "NotIndexed", "Search", "installed_embedder"]
