/** All routes of the API. A new file of routes must be entered here. */
import type { RouteGroup } from '../http/route.ts';
import { backupRoutes } from './backups.ts';
import { certificateRoutes } from './certificates.ts';
import { eventRoutes } from './events.ts';
import { exportRoutes } from './exports.ts';
import { instanceRoutes } from './instances.ts';
import { operationRoutes } from './operations.ts';
import { poolRoutes, projectRoutes } from './places.ts';
import { pruneRoutes } from './prune.ts';
import { restoreRoutes } from './restore.ts';
import { runRoutes } from './runs.ts';
import { scheduleRoutes } from './schedules.ts';
import { openapiRoutes, serverRoutes } from './server.ts';
import { statusRoutes } from './status.ts';
import { uploadRoutes } from './uploads.ts';

export const routeGroups: RouteGroup[] = [
  serverRoutes,
  openapiRoutes,
  certificateRoutes,
  backupRoutes,
  restoreRoutes,
  exportRoutes,
  instanceRoutes,
  uploadRoutes,
  operationRoutes,
  runRoutes,
  pruneRoutes,
  scheduleRoutes,
  eventRoutes,
  statusRoutes,
  projectRoutes,
  poolRoutes,
];
