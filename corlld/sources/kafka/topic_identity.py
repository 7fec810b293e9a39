"""Decides which name states know a topic by, and tells whether a topic is still the one that was read before.

States keep `applied` under the name. It is the topic's id, if the cluster has one. Kafka has ids since 2.8, and not
before the cluster's metadata version is raised to 2.8 as well. Without an id the name is made from the topic's own
name. Such a stand-in stays when the cluster is upgraded and ids appear: under another name, `applied` would be lost,
and edits would be learnt twice. So the name, and the id that belongs to it, are stored beside the states.
"""

import hashlib
from collections.abc import Mapping

from corlld.errors import ConfigurationError
from corlld.protocols import PositionStore

STAND_IN = "name:"  # followed by the topic's name; neither an id nor a name can have a colon


class TopicIdentity:
    """Keeps the name and the id of one topic. Called from the source's thread.

    An id of None means that the cluster gave none. While a cluster is being upgraded, its brokers may differ in that.

    Args:
        topic: its name.
        positions: where a stand-in is stored; None for a reader that keeps no states.
    """

    def __init__(self, topic: str, positions: PositionStore | None) -> None:
        self._topic = topic
        self._positions = positions
        self._file = hashlib.sha256(f"topic {topic}".encode()).hexdigest()[:32]
        self._saved = True
        self.topic_id: str | None = None
        self.name = ""  # known after `load`

    def load(self, topic_id: str | None, *, has_commits: bool) -> None:
        """Decide the name.

        Args:
            topic_id: the id that the cluster gives the topic now.
            has_commits: the group has committed before, so that states may name the topic already.

        Raises:
            ConfigurationError: states name the topic by its id, and the cluster does not give it.
            FatalError: what is stored is corrupt.
            RetriableError: it can't be loaded.
        """
        stored = self._positions.load_position(self._file) if self._positions is not None else None
        self.topic_id = topic_id
        if stored is None:
            if topic_id is None and has_commits and self._positions is not None:
                raise ConfigurationError(
                    f"the cluster does not give the id of topic {self._topic} any more, by which the states know it: "
                    "name brokers of Kafka 2.8 or newer in kafka.bootstrap_servers, and raise the cluster's metadata "
                    "version"
                )
            self.name = topic_id or STAND_IN + self._topic
            self._saved = topic_id is not None
            return
        stored_id = str(stored["topic_id"]) or None
        if topic_id is None or stored_id in (None, topic_id):
            self.name = str(stored["name"])
            self.topic_id = topic_id or stored_id
        else:  # recreated while no daemon ran: what was applied of the topic before counts for nothing
            self.name = topic_id
        self._saved = self._content() == stored

    def note(self, topic_id: str | None) -> bool:
        """Note the id of a newer answer. Return False if it belongs to another topic of the same name."""
        if topic_id is None or topic_id == self.topic_id:
            return True
        if self.topic_id is not None:
            return False
        self.topic_id, self._saved = topic_id, False  # the cluster was upgraded
        return True

    def save(self) -> None:
        """Make a stand-in durable, and the id that belongs to it. To be called before any record is applied.

        Does nothing if nothing is new. Raises RetriableError.
        """
        if not self._saved and self._positions is not None:
            self._positions.save_position(self._file, self._content())
        self._saved = True

    def _content(self) -> Mapping[str, str]:
        return {"name": self.name, "topic": self._topic, "topic_id": self.topic_id or ""}
