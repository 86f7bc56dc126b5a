/** The searches for what lxstow has made and no operation owns any more. They change nothing. */
import { inLxd } from './inLxd.ts';
import { checkpoints, leases } from './inNats.ts';
import { abandonedUploads } from './inOperations.ts';
import { archives, uploads } from './inStore.ts';
import type { Search } from './leftoverTypes.ts';

/** By the place that they search: if one fails, the others are not hidden. */
export const searches: Record<string, Search> = {
  'operations in NATS': abandonedUploads,
  LXD: inLxd,
  'uploads in S3': uploads,
  'archives in S3': archives,
  'leases in NATS': leases,
  'checkpoints in NATS': checkpoints,
};
