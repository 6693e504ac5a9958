"""Parts: every kind of source, what may be wrong with it, kills, and a merged gallery that equals an indexed one."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fakes import FakeEngine, fake_gallery, fake_model, write_pictures
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from textures import texture

from retrieval.cli.main import cli
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, UsageError
from retrieval.gallery.description import description_checksum
from retrieval.gallery.gallery import Gallery
from retrieval.parts import places, run
from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.part import part_counts, read_part
from retrieval.parts.run import describe_parts, status_of
from retrieval.parts.sources import Source, look_at

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(places, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(run, "_WAIT_SECONDS", 0.0)


def described(source, parts, **options):
    return describe_parts(str(source), parts, fake_model(), **{"shard_size": 4, "workers": 2, **options})


def merged(parts, folder):
    gallery = fake_gallery(folder)
    return gallery, merge_parts(gallery, read_manifest(parts))


def rows_of(parts):
    manifest = read_manifest(parts)
    found = [read_part(manifest, shard) for shard in range(len(manifest.shards))]
    return [row for part in found if part is not None for row in part.rows]


def content(gallery):
    """(id, path) -> all that a gallery says of a picture but its inode."""
    entries = {}
    name = gallery.namer()
    for r in gallery.catalog.records():
        vector = None if r.row is None else gallery.vectors_of([r])[0].tobytes()
        entries[r.id, name(r)] = (r.size, r.mtime_ns, r.hash, r.width, r.height, r.status, r.error, vector)
    return entries


def aged(folder):
    """Files so old that their times count."""
    for path in Path(folder).rglob("*"):
        os.utime(path, ns=(10**18, 10**18 + 7))


def mixed_folder(folder):
    """Pictures, copies, a broken one, an empty one, sub-folders."""
    write_pictures(folder / "a", 7, seed=1, sizes=((40, 30), (30, 40)))
    write_pictures(folder / "b", 6, seed=2)
    Image.fromarray(texture(3)).save(folder / "b" / "texture.png")
    (folder / "b" / "copy.png").write_bytes((folder / "a" / "0003.png").read_bytes())
    (folder / "b" / "second.png").write_bytes((folder / "a" / "0003.png").read_bytes())
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"no more" * 9)
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    aged(folder)
    return folder


class TestMerge:
    def test_a_merged_gallery_equals_an_indexed_one(self, tmp_path):
        photos = mixed_folder(tmp_path / "photos")
        direct = fake_gallery(tmp_path / "direct")
        direct.index([photos])
        described(photos, tmp_path / "parts")
        gallery, report = merged(tmp_path / "parts", tmp_path / "merged")
        assert content(gallery) == content(direct)
        assert report.added == 16
        assert report.unreadable == 2
        assert gallery.local.contents() == direct.local.contents()
        for query in sorted(photos.rglob("*.png"))[:4]:
            for rank in ("cosine", "fused"):
                assert gallery.query(query, rank=rank) == direct.query(query, rank=rank)

    def test_what_was_merged_is_not_described_again(self, tmp_path):
        photos = mixed_folder(tmp_path / "photos")
        described(photos, tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        before = content(gallery)
        report = gallery.index([photos])
        assert (report.embedded, report.local, report.unchanged) == (0, 0, 16)
        assert content(gallery) == before

    def test_merging_twice_changes_nothing(self, tmp_path):
        described(mixed_folder(tmp_path / "photos"), tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        before, version = content(gallery), gallery.catalog.number("version")
        report = merge_parts(gallery, read_manifest(tmp_path / "parts"))
        assert (report.added, report.changed, report.unchanged) == (0, 0, 16)
        assert content(gallery) == before
        assert gallery.catalog.number("version") == version

    def test_parts_may_come_in_any_order(self, tmp_path):
        photos = mixed_folder(tmp_path / "photos")
        parts = tmp_path / "parts"
        described(photos, parts, share=(2, 2))
        gallery, first = merged(parts, tmp_path / "merged")
        assert first.missing == list(range(0, len(read_manifest(parts).shards), 2))
        described(photos, parts, share=(1, 2))
        second = merge_parts(gallery, read_manifest(parts))
        assert not second.missing
        direct = fake_gallery(tmp_path / "direct")
        direct.index([photos])
        assert content(gallery) == content(direct)

    def test_the_gallerys_later_word_stays(self, tmp_path):
        photos = write_pictures(tmp_path / "photos", 5)
        aged(tmp_path / "photos")
        described(tmp_path / "photos", tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        write_pictures(tmp_path / "other", 1, seed=9)
        photos[2].write_bytes((tmp_path / "other" / "0000.png").read_bytes())
        os.utime(photos[2], ns=(10**18, 10**18 + 10**9))
        gallery.index([tmp_path / "photos"])
        before = content(gallery)
        merge_parts(gallery, read_manifest(tmp_path / "parts"))
        assert content(gallery) == before

    def test_what_was_taken_out_stays_out(self, tmp_path):
        photos = write_pictures(tmp_path / "photos", 5)
        described(tmp_path / "photos", tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        gallery.remove(str(photos[1]))
        assert merge_parts(gallery, read_manifest(tmp_path / "parts")).stayed_out == 1
        assert len(gallery) == 4

    def test_another_model_is_refused(self, tmp_path):
        write_pictures(tmp_path / "photos", 2)
        described(tmp_path / "photos", tmp_path / "parts")
        other = Gallery.create(tmp_path / "other", fake_model(weights="b"))
        with pytest.raises(GalleryMismatch, match="fingerprint"):
            merge_parts(other, read_manifest(tmp_path / "parts"))
        with pytest.raises(GalleryMismatch, match="fingerprint"):
            describe_parts(str(tmp_path / "photos"), tmp_path / "parts", fake_model(weights="b"))

    def test_into_a_folder_that_is_indexed_above(self, tmp_path):
        write_pictures(tmp_path / "all" / "sub", 3, seed=1)
        write_pictures(tmp_path / "all" / "else", 3, seed=2)
        aged(tmp_path / "all")
        gallery = fake_gallery(tmp_path / "gallery")
        gallery.index([tmp_path / "all" / "else"])
        described(tmp_path / "all", tmp_path / "parts")
        assert merge_parts(gallery, read_manifest(tmp_path / "parts")).added == 3
        assert gallery.index([tmp_path / "all"]).unchanged == 6


class TestSources:
    def test_a_tar_and_a_folder_give_the_same(self, tmp_path):
        photos = write_pictures(tmp_path / "photos", 6)
        for number, half in enumerate((photos[:3], photos[3:])):
            with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
                for path in half:
                    archive.add(path, f"x/{path.name}")
                    archive.add(path, f"x/{path.stem}.json")  # not a picture by its name
        described(tmp_path / "*.tar", tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        direct = fake_gallery(tmp_path / "direct")
        direct.index([tmp_path / "photos"])
        assert np.array_equal(gallery.vectors(), direct.vectors())
        assert next(iter(gallery)) == str(tmp_path / "0.tar" / "x" / "0000.png")
        assert len(gallery.search(direct.vectors()[:1], 10, under=str(tmp_path / "0.tar"))[0]) == 3

    @pytest.mark.parametrize("cut", ["in a member", "in a header", "before the end mark"])
    def test_a_tar_cut_short(self, tmp_path, cut):
        photos = write_pictures(tmp_path / "photos", 3)
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            for photo in photos:
                archive.add(photo, photo.name)
            offset = archive.offset
        with tarfile.open(path) as archive:
            begin = archive.getmember("0002.png").offset_data
        length = {"in a member": begin + 60, "in a header": begin - 300, "before the end mark": offset}[cut]
        path.write_bytes(path.read_bytes()[:length])
        assert described(path, tmp_path / "parts").failed == {}
        rows = rows_of(tmp_path / "parts")
        good = 3 if cut == "before the end mark" else 2
        assert [row.error is None for row in rows] == [True] * good + [False]
        assert "ends early" in rows[-1].error
        assert rows[-1].key == (f"{path}/0002.png" if cut == "in a member" else str(path))
        gallery, report = merged(tmp_path / "parts", tmp_path / "gallery")
        assert (report.added, report.unreadable) == (good, 1)
        assert [root.kind for root in gallery.catalog.roots()] == ["keys"]

    def test_what_is_no_tar(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"no archive" * 200)
        described(tmp_path / "a.tar", tmp_path / "parts")
        assert [row.error for row in rows_of(tmp_path / "parts")] == ["no tar archive that can be read"]

    @pytest.mark.parametrize("form", ["bytes", "struct", "path"])
    def test_parquet(self, tmp_path, form):
        photos = write_pictures(tmp_path / "photos", 10)
        data = [path.read_bytes() for path in photos]
        data[4] = None
        columns = {
            "bytes": {"key": [p.stem for p in photos], "jpg": data},
            "struct": {"image": [{"bytes": d, "path": p.name} for d, p in zip(data, photos, strict=True)]},
            "path": {"path": [None if d is None else f"photos/{p.name}" for d, p in zip(data, photos, strict=True)]},
        }[form]
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=3)
        described(tmp_path / "a.parquet", tmp_path / "parts")
        assert len(read_manifest(tmp_path / "parts").shards) == 3
        rows = rows_of(tmp_path / "parts")
        assert [i for i, row in enumerate(rows) if row.error] == [4]
        names = {"bytes": "0003", "struct": "3", "path": ""}[form]
        assert rows[3].key == (str(photos[3]) if form == "path" else f"{tmp_path}/a.parquet/{names}")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        direct = fake_gallery(tmp_path / "direct")
        direct.index([tmp_path / "photos"])
        assert np.array_equal(gallery.vectors(), np.delete(direct.vectors(), 4, 0))

    def test_parquet_without_pictures_is_refused(self, tmp_path):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
        with pytest.raises(UsageError, match="no column of pictures among a"):
            described(tmp_path / "a.parquet", tmp_path / "parts")
        (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
        with pytest.raises(UsageError, match="cannot be read as Parquet"):
            described(tmp_path / "b.parquet", tmp_path / "parts")

    def test_a_list_of_paths(self, tmp_path):
        photos = write_pictures(tmp_path / "photos", 4)
        aged(tmp_path / "photos")
        lines = ["photos/0002.png", str(photos[0]), "photos/none.png", "", "photos"]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        described(tmp_path / "list.txt", tmp_path / "parts")
        gallery, report = merged(tmp_path / "parts", tmp_path / "merged")
        assert (report.added, report.unreadable) == (2, 2)
        assert gallery.index([photos[0], photos[2]]).unchanged == 2

    def test_names_that_are_not_utf8(self, tmp_path):
        folder = os.fsencode(tmp_path / "photos")
        path = write_pictures(tmp_path / "photos", 2)[0]
        try:
            os.rename(path, os.path.join(folder, b"caf\xe9 #1%.png"))
        except OSError:
            pytest.skip("this file system knows UTF-8 alone")
        aged(tmp_path / "photos")
        described(tmp_path / "photos", tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        assert gallery.index([tmp_path / "photos"]).unchanged == 2

    def test_nothing_there(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for source, words in (("none", "there is no"), ("empty", "holds no pictures")):
            with pytest.raises(UsageError, match=words):
                look_at(str(tmp_path / source))

    def test_shards_divide_evenly(self):
        for count in (1, 5, 63, 1000, 1001):
            source = Source("", "files", tuple((str(i), 1) for i in range(count)))
            for most, multiple in ((1, 1), (7, 1), (7, 4), (2000, 64)):
                shards = source.shards(most, multiple)
                assert [name for shard in shards for name in shard] == [str(i) for i in range(count)]
                sizes = {len(shard) for shard in shards}
                assert max(sizes) <= most
                assert max(sizes) - min(sizes) <= 1
                assert len(shards) % multiple == 0 or len(shards) == count

    def test_rows_of_tables_are_divided(self):
        source = Source("", "parquet", ((["a", 0, 10], 10), (["b", 0, 3], 3)))
        covered = [(name, row) for s in source.shards(4, 1) for name, first, n in s for row in range(first, first + n)]
        assert covered == [("a", i) for i in range(10)] + [("b", i) for i in range(3)]


@pytest.fixture
def memory(tmp_path):
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in write_pictures(tmp_path / "photos", 6):
        system.pipe(f"/bucket/{path.name}", path.read_bytes())
    system.pipe("/bucket/.hidden/a.png", b"")
    system.pipe("/bucket/notes.txt", b"no picture")
    yield system
    system.store.clear()


class FailingFileSystem(MemoryFileSystem):
    """The store of ``memory://``, which fails as often as it is told, from the n-th read on."""

    protocol = "failing"
    fails = 0
    after = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("failing://", "memory://"))

    def _one_more(self):
        FailingFileSystem.after -= 1
        if FailingFileSystem.after < 0 < FailingFileSystem.fails:
            FailingFileSystem.fails -= 1
            raise OSError("the store is away")

    def cat_file(self, path, start=None, end=None, **kwargs):
        self._one_more()
        return super().cat_file(path, start, end, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        stream = super()._open(path, mode, **kwargs)
        data = stream.getvalue()
        owner = self

        class Stream(io.BytesIO):
            def read(self, *args):
                owner._one_more()
                return super().read(*args)

        return Stream(data)


fsspec.register_implementation("failing", FailingFileSystem, clobber=True)


class TestStores:
    def test_a_folder_in_memory(self, tmp_path, memory):
        described("memory://bucket", tmp_path / "parts")
        gallery, _ = merged(tmp_path / "parts", tmp_path / "merged")
        direct = fake_gallery(tmp_path / "direct")
        direct.index([tmp_path / "photos"])
        assert np.array_equal(gallery.vectors(), direct.vectors())
        assert list(gallery) == [f"memory://bucket/{i:04d}.png" for i in range(6)]

    def test_a_tar_and_a_table_in_memory(self, tmp_path, memory):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(tmp_path / "photos" / "0001.png", "one.png")
        memory.pipe("/tars/a.tar", stream.getvalue())
        table = io.BytesIO()
        pq.write_table(pa.table({"url": ["memory://bucket/0002.png", "memory://bucket/none.png"]}), table)
        memory.pipe("/tables/a.parquet", table.getvalue())
        described("memory://tars", tmp_path / "a")
        described("memory://tables/a.parquet", tmp_path / "b")
        assert [row.key for row in rows_of(tmp_path / "a")] == ["memory://tars/a.tar/one.png"]
        assert [row.error for row in rows_of(tmp_path / "b")] == [None, "it is not there"]

    @pytest.mark.parametrize(("fails", "errors"), [(2, 0), (3, 1), (1000, 4)])
    def test_a_store_that_fails_half_way(self, tmp_path, memory, fails, errors):
        """Each picture is tried three times; what is then not there is an error, and the other pictures are described."""
        FailingFileSystem.fails, FailingFileSystem.after = fails, 2
        report = described("failing://bucket", tmp_path / "parts", workers=1)
        rows = rows_of(tmp_path / "parts")
        assert report.failed == {}
        assert sum(row.error is not None for row in rows) == errors
        assert len(rows) == 6
        assert all("the store is away" in row.error for row in rows if row.error)

    def test_an_archive_whose_store_fails(self, tmp_path, memory):
        """Half an archive is no part: the shard is tried three times, reported, and done by the next run."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path in sorted((tmp_path / "photos").glob("*.png")):
                archive.add(path, path.name)
        memory.pipe("/tars/a.tar", stream.getvalue())
        FailingFileSystem.fails, FailingFileSystem.after = 1000, 9
        report = described("failing://tars/a.tar", tmp_path / "parts")
        assert report.failed == {0: "the store is away"}
        assert status_of(read_manifest(tmp_path / "parts")).missing == [0]
        FailingFileSystem.fails = 2
        assert described("failing://tars/a.tar", tmp_path / "parts").failed == {}
        assert len(rows_of(tmp_path / "parts")) == 6

    def test_web_addresses(self, tmp_path):
        photos = write_pictures(tmp_path / "photos", 2)
        asked: list[str] = []

        class Server(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                if self.path == "/slow.png":
                    time.sleep(0.6)
                    return
                if self.path == "/busy.png" and asked.count("/busy.png") < 3:
                    self.send_error(503)
                    return
                found = tmp_path / "photos" / self.path[1:].replace("busy", "0001").replace("short", "0000")
                if not found.is_file():
                    self.send_error(404)
                    return
                data = found.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:50] if "short" in self.path else data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            names = ["0000.png", "busy.png", "none.png", "slow.png", "short.png"]
            (tmp_path / "list.txt").write_text("\n".join(f"{base}/{name}" for name in names))
            assert described(tmp_path / "list.txt", tmp_path / "parts", timeout=0.2).failed == {}
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
        rows = {row.key.rpartition("/")[2]: row for row in rows_of(tmp_path / "parts")}
        errors = {name: row.error for name, row in rows.items()}
        assert errors["0000.png"] is errors["busy.png"] is None
        assert errors["none.png"] == "the server answers 404"
        assert errors["slow.png"] == "cannot be read after 3 tries: timed out"
        assert "cannot be read after 3 tries" in errors["short.png"]
        assert [asked.count(f"/{name}") for name in names] == [1, 3, 1, 3, 3]
        assert len(photos) == 2


class TestParts:
    def test_a_part_that_is_damaged_is_made_anew(self, tmp_path):
        write_pictures(tmp_path / "photos", 6)
        described(tmp_path / "photos", tmp_path / "parts")
        path = tmp_path / "parts" / "part-00001.parquet"
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        manifest = read_manifest(tmp_path / "parts")
        assert set(status_of(manifest).bad) == {1}
        gallery, report = merged(tmp_path / "parts", tmp_path / "merged")
        assert set(report.bad) == {1}
        assert described(tmp_path / "photos", tmp_path / "parts").described == 1
        assert merge_parts(gallery, manifest).added == 3

    def test_any_changed_byte_of_the_data_is_noticed(self, tmp_path):
        write_pictures(tmp_path / "photos", 4)
        described(tmp_path / "photos", tmp_path / "parts")
        manifest = read_manifest(tmp_path / "parts")
        path = manifest.part(0)
        whole = path.read_bytes()
        before = read_part(manifest, 0)
        rng = random.Random(5)
        for _ in range(60):
            at = rng.randrange(4, len(whole) // 2)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
            try:
                found = read_part(manifest, 0)
            except GalleryDamaged:
                continue
            assert found.rows == before.rows
            assert np.array_equal(found.vectors, before.vectors)

    def test_parts_of_other_shards_do_not_count(self, tmp_path):
        write_pictures(tmp_path / "photos", 8)
        described(tmp_path / "photos", tmp_path / "parts")
        (tmp_path / "parts" / "part-00000.parquet").replace(tmp_path / "parts" / "part-00001.parquet")
        status = status_of(read_manifest(tmp_path / "parts"))
        assert (status.missing, set(status.bad)) == ([0], {1})

    def test_a_changed_manifest_is_noticed(self, tmp_path):
        write_pictures(tmp_path / "photos", 2)
        described(tmp_path / "photos", tmp_path / "parts")
        path = tmp_path / "parts" / "manifest.json"
        path.write_text(path.read_text().replace("0001.png", "0009.png"))
        with pytest.raises(GalleryDamaged):
            read_manifest(tmp_path / "parts")

    def test_another_source_is_refused(self, tmp_path):
        write_pictures(tmp_path / "photos", 2)
        write_pictures(tmp_path / "others", 2)
        described(tmp_path / "photos", tmp_path / "parts")
        with pytest.raises(UsageError, match="others"):
            described(tmp_path / "others", tmp_path / "parts")
        with pytest.raises(GalleryError, match="not empty"):
            described(tmp_path / "photos", tmp_path / "others")

    def test_workers_that_start_together_agree(self, tmp_path):
        write_pictures(tmp_path / "photos", 24)
        reports = []

        def work(own):
            reports.append(described(tmp_path / "photos", tmp_path / "parts", share=(own, 4)))

        threads = [threading.Thread(target=work, args=(own,)) for own in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(r.described for r in reports) == len(read_manifest(tmp_path / "parts").shards) == 8
        assert sum(r.pictures for r in reports) == 24

    def test_kills(self, tmp_path):
        """Whatever the moment, a part is there whole or not at all, what is there is not described again, and the merged gallery
        equals an undisturbed one."""
        photos, parts = mixed_folder(tmp_path / "photos"), tmp_path / "parts"
        rng = random.Random(17)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
        killed, done = 0, 0

        def begin(*arguments):
            command = [sys.executable, str(HERE / "parts_fake.py"), *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
            process.stdout.readline()
            return process

        for _ in range(4):
            with begin("describe", photos, parts, 0.01) as process:
                time.sleep(rng.uniform(0.05, 0.5))
                process.kill()
            if (parts / "manifest.json").exists():
                manifest = read_manifest(parts)
                counts = [part_counts(manifest, shard) for shard in range(len(manifest.shards))]
                assert sum(c is not None for c in counts) >= done
                done = sum(c is not None for c in counts)
                killed += 1
        assert killed
        engine = FakeEngine()
        describe_parts(str(photos), parts, fake_model(engine), shard_size=5, workers=2)
        manifest = read_manifest(parts)
        assert engine.described <= 16 - 4 * done
        for _ in range(4):
            with begin("merge", parts, tmp_path / "merged") as process:
                time.sleep(rng.uniform(0.0, 0.12))
                process.kill()
        gallery, _ = merged(parts, tmp_path / "merged")
        direct = fake_gallery(tmp_path / "direct")
        direct.index([photos])
        assert content(gallery) == content(direct)
        assert len(manifest.shards) == 4


class TestCommand:
    def run(self, *arguments):
        result = CliRunner().invoke(cli, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.return_value if result.exit_code == 0 else result.exit_code, result.stdout

    def test_describe_index_status(self, tmp_path):
        write_pictures(tmp_path / "photos", 5)
        aged(tmp_path / "photos")
        (tmp_path / "photos" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot")
        model = ("--model", "tiny-gem@random:0", "--size", "32", "-q")
        options = ("--out", tmp_path / "parts", "--shard-size", 3, "--engine", "torch", *model)
        self.run("describe", tmp_path / "photos", *options, "--shard", "1/2")
        _, out = self.run("index", "--status", tmp_path / "parts", "--format", "json")
        told = json.loads(out)
        assert (told["shards"], told["done"], told["missing"], told["pictures"]) == (2, 1, [1], 3)
        _, out = self.run("describe", tmp_path / "photos", *options)
        assert "1 of 2 shards described" in out
        assert "1 done before" in out
        gallery = ("--index", tmp_path / "gallery")
        _, out = self.run("index", tmp_path / "parts", *gallery, "-q")
        assert out.startswith("5 pictures in")
        assert "5 added, 1 unreadable" in out
        direct = ("--index", tmp_path / "direct", "--engine", "torch")
        self.run("index", tmp_path / "photos", *direct, *model)
        with Gallery.open(tmp_path / "gallery") as a, Gallery.open(tmp_path / "direct") as b:
            assert np.array_equal(a.vectors(), b.vectors())
        _, out = self.run("index", tmp_path / "photos", *gallery, "-q")
        assert "5 unchanged" in out
        with pytest.raises(UsageError, match="by themselves"):
            self.run("index", tmp_path / "parts", tmp_path / "photos", *gallery)
        with pytest.raises(UsageError, match=r"photos holds no parts \(no manifest.json\)"):
            self.run("index", "--status", tmp_path / "photos")
        with pytest.raises(GalleryMismatch):
            self.run("index", tmp_path / "parts", *gallery, "--size", "64")

    def test_without_pyarrow(self, tmp_path, monkeypatch):
        write_pictures(tmp_path / "photos", 1)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UsageError, match=r"retrieval\[parts\]"):
            described(tmp_path / "photos", tmp_path / "parts")

    def test_without_fsspec(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(UsageError, match=r"retrieval\[parts\]"):
            described("s3://bucket/photos", tmp_path / "parts")


def test_the_script_that_measures_runs(capsys):
    sys.path.insert(0, str(HERE.parent / "scripts"))
    try:
        import scale_slopes

        steps: list[dict[str, object]] = []
        scale_slopes.measure(1200, 16, None, steps)
    finally:
        sys.path.pop(0)
    assert {step["rows"] for step in steps} == {1200, scale_slopes.QUERIES}
    assert "merge" in capsys.readouterr().out


def test_a_damaged_number_of_the_format_is_no_later_program(tmp_path):
    write_pictures(tmp_path / "album", 3)
    described(tmp_path / "album", tmp_path / "parts")
    path = next((tmp_path / "parts").glob("*.json"))
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "format": 9}))
    with pytest.raises(GalleryDamaged):
        read_manifest(tmp_path / "parts")
    del told["check"]
    told["format"] = 9
    path.write_text(json.dumps({**told, "check": description_checksum(told)}))
    with pytest.raises(GalleryError, match="Update"):
        read_manifest(tmp_path / "parts")
