/**
 * What a file system tells about writes to a file on it.
 *
 * @module
 */
import { statfs } from "node:fs/promises";

export interface FileSystem {
  /**
   * Whether the file's times move with every write of this host, through a mapping too: then the first store to a page
   * since the last write-back is stamped.
   */
  readonly timesTell: boolean;
  /** Its name, where others may write to the file without this host's knowledge. */
  readonly sharedBy?: string;
}

/** By `f_type`; see `statfs(2)`. Only those are trusted whose page faults are known to stamp. */
const STAMPING = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
]);
const SHARED = new Map([
  [0x6969, "NFS"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB"],
  [0x517b, "SMB"],
  [0x01021997, "9p"],
  [0x65735546, "FUSE"],
  [0x00c36400, "Ceph"],
  [0x5346414f, "AFS"],
  [0x01161970, "GFS2"],
  [0x7461636f, "OCFS2"],
]);

export async function fileSystemOf(path: string): Promise<FileSystem> {
  // Where it is negative it is a 32-bit number that was taken for signed.
  const type = (await statfs(path)).type >>> 0;
  const sharedBy = SHARED.get(type);
  return { timesTell: STAMPING.has(type), ...(sharedBy === undefined ? {} : { sharedBy }) };
}
