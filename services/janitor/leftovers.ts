/** The search for what lxstow has made and nobody owns any more. Nothing is changed here. */
import { inLxd } from './inLxd.ts';
import { checkpoints, leases } from './inNats.ts';
import { archives, uploads } from './inStore.ts';
import type { Search } from './leftover.ts';
import { orphans } from './orphans.ts';

/** Each part of the search, by what it looks through: one that cannot be looked through does not hide the others. */
export const searches: Record<string, Search> = {
  'operations in NATS': orphans,
  LXD: inLxd,
  'uploads in S3': uploads,
  'archives in S3': archives,
  'leases in NATS': leases,
  'checkpoints in NATS': checkpoints,
};
