//! The generated traits, each method handed to the file of its verb.

use longshore_proto::runtime::v1 as wire;
use longshore_proto::runtime::v1::image_service_server::ImageService;
use longshore_proto::runtime::v1::runtime_service_server::RuntimeService;
use tonic::Request;

use super::{Answer, Cri, Stream};

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Stream<wire::StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<wire::StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<wire::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<wire::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = Stream<wire::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Stream<wire::StreamPodSandboxMetricsResponse>;

    async fn version(&self, request: Request<wire::VersionRequest>) -> Answer<wire::VersionResponse> {
        Ok(self.do_version(request.into_inner()).await?.into())
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<wire::RunPodSandboxRequest>,
    ) -> Answer<wire::RunPodSandboxResponse> {
        Ok(self.do_run_pod_sandbox(request.into_inner()).await?.into())
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<wire::StopPodSandboxRequest>,
    ) -> Answer<wire::StopPodSandboxResponse> {
        Ok(self.do_stop_pod_sandbox(request.into_inner()).await?.into())
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<wire::RemovePodSandboxRequest>,
    ) -> Answer<wire::RemovePodSandboxResponse> {
        Ok(self.do_remove_pod_sandbox(request.into_inner()).await?.into())
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<wire::PodSandboxStatusRequest>,
    ) -> Answer<wire::PodSandboxStatusResponse> {
        Ok(self.do_pod_sandbox_status(request.into_inner()).await?.into())
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<wire::ListPodSandboxRequest>,
    ) -> Answer<wire::ListPodSandboxResponse> {
        Ok(self.do_list_pod_sandbox(request.into_inner()).await?.into())
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<wire::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        Ok(self.do_stream_pod_sandboxes(request.into_inner()).await?.into())
    }

    async fn create_container(
        &self,
        request: Request<wire::CreateContainerRequest>,
    ) -> Answer<wire::CreateContainerResponse> {
        Ok(self.do_create_container(request.into_inner()).await?.into())
    }

    async fn start_container(
        &self,
        request: Request<wire::StartContainerRequest>,
    ) -> Answer<wire::StartContainerResponse> {
        Ok(self.do_start_container(request.into_inner()).await?.into())
    }

    async fn stop_container(
        &self,
        request: Request<wire::StopContainerRequest>,
    ) -> Answer<wire::StopContainerResponse> {
        Ok(self.do_stop_container(request.into_inner()).await?.into())
    }

    async fn remove_container(
        &self,
        request: Request<wire::RemoveContainerRequest>,
    ) -> Answer<wire::RemoveContainerResponse> {
        Ok(self.do_remove_container(request.into_inner()).await?.into())
    }

    async fn list_containers(
        &self,
        request: Request<wire::ListContainersRequest>,
    ) -> Answer<wire::ListContainersResponse> {
        Ok(self.do_list_containers(request.into_inner()).await?.into())
    }

    async fn stream_containers(
        &self,
        request: Request<wire::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        Ok(self.do_stream_containers(request.into_inner()).await?.into())
    }

    async fn container_status(
        &self,
        request: Request<wire::ContainerStatusRequest>,
    ) -> Answer<wire::ContainerStatusResponse> {
        Ok(self.do_container_status(request.into_inner()).await?.into())
    }

    async fn update_container_resources(
        &self,
        request: Request<wire::UpdateContainerResourcesRequest>,
    ) -> Answer<wire::UpdateContainerResourcesResponse> {
        Ok(self.do_update_container_resources(request.into_inner()).await?.into())
    }

    async fn reopen_container_log(
        &self,
        request: Request<wire::ReopenContainerLogRequest>,
    ) -> Answer<wire::ReopenContainerLogResponse> {
        Ok(self.do_reopen_container_log(request.into_inner()).await?.into())
    }

    async fn exec_sync(&self, request: Request<wire::ExecSyncRequest>) -> Answer<wire::ExecSyncResponse> {
        Ok(self.do_exec_sync(request.into_inner()).await?.into())
    }

    async fn exec(&self, request: Request<wire::ExecRequest>) -> Answer<wire::ExecResponse> {
        Ok(self.do_exec(request.into_inner()).await?.into())
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Answer<wire::AttachResponse> {
        Ok(self.do_attach(request.into_inner()).await?.into())
    }

    async fn port_forward(
        &self,
        request: Request<wire::PortForwardRequest>,
    ) -> Answer<wire::PortForwardResponse> {
        Ok(self.do_port_forward(request.into_inner()).await?.into())
    }

    async fn container_stats(
        &self,
        request: Request<wire::ContainerStatsRequest>,
    ) -> Answer<wire::ContainerStatsResponse> {
        Ok(self.do_container_stats(request.into_inner()).await?.into())
    }

    async fn list_container_stats(
        &self,
        request: Request<wire::ListContainerStatsRequest>,
    ) -> Answer<wire::ListContainerStatsResponse> {
        Ok(self.do_list_container_stats(request.into_inner()).await?.into())
    }

    async fn stream_container_stats(
        &self,
        request: Request<wire::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        Ok(self.do_stream_container_stats(request.into_inner()).await?.into())
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<wire::PodSandboxStatsRequest>,
    ) -> Answer<wire::PodSandboxStatsResponse> {
        Ok(self.do_pod_sandbox_stats(request.into_inner()).await?.into())
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<wire::ListPodSandboxStatsRequest>,
    ) -> Answer<wire::ListPodSandboxStatsResponse> {
        Ok(self.do_list_pod_sandbox_stats(request.into_inner()).await?.into())
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<wire::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        Ok(self.do_stream_pod_sandbox_stats(request.into_inner()).await?.into())
    }

    async fn update_runtime_config(
        &self,
        request: Request<wire::UpdateRuntimeConfigRequest>,
    ) -> Answer<wire::UpdateRuntimeConfigResponse> {
        Ok(self.do_update_runtime_config(request.into_inner()).await?.into())
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        Ok(self.do_status(request.into_inner()).await?.into())
    }

    async fn checkpoint_container(
        &self,
        request: Request<wire::CheckpointContainerRequest>,
    ) -> Answer<wire::CheckpointContainerResponse> {
        Ok(self.do_checkpoint_container(request.into_inner()).await?.into())
    }

    async fn checkpoint_pod(
        &self,
        request: Request<wire::CheckpointPodRequest>,
    ) -> Answer<wire::CheckpointPodResponse> {
        Ok(self.do_checkpoint_pod(request.into_inner()).await?.into())
    }

    async fn restore_pod(
        &self,
        request: Request<wire::RestorePodRequest>,
    ) -> Answer<wire::RestorePodResponse> {
        Ok(self.do_restore_pod(request.into_inner()).await?.into())
    }

    async fn get_container_events(
        &self,
        request: Request<wire::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(self.do_get_container_events(request.into_inner()).await?.into())
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<wire::ListMetricDescriptorsRequest>,
    ) -> Answer<wire::ListMetricDescriptorsResponse> {
        Ok(self.do_list_metric_descriptors(request.into_inner()).await?.into())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<wire::ListPodSandboxMetricsRequest>,
    ) -> Answer<wire::ListPodSandboxMetricsResponse> {
        Ok(self.do_list_pod_sandbox_metrics(request.into_inner()).await?.into())
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<wire::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(self.do_stream_pod_sandbox_metrics(request.into_inner()).await?.into())
    }

    async fn runtime_config(
        &self,
        request: Request<wire::RuntimeConfigRequest>,
    ) -> Answer<wire::RuntimeConfigResponse> {
        Ok(self.do_runtime_config(request.into_inner()).await?.into())
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<wire::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<wire::UpdatePodSandboxResourcesResponse> {
        Ok(self.do_update_pod_sandbox_resources(request.into_inner()).await?.into())
    }
}

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Stream<wire::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Answer<wire::ListImagesResponse> {
        Ok(self.do_list_images(request.into_inner()).await?.into())
    }

    async fn stream_images(
        &self,
        request: Request<wire::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        Ok(self.do_stream_images(request.into_inner()).await?.into())
    }

    async fn image_status(
        &self,
        request: Request<wire::ImageStatusRequest>,
    ) -> Answer<wire::ImageStatusResponse> {
        Ok(self.do_image_status(request.into_inner()).await?.into())
    }

    async fn pull_image(&self, request: Request<wire::PullImageRequest>) -> Answer<wire::PullImageResponse> {
        Ok(self.do_pull_image(request.into_inner()).await?.into())
    }

    async fn remove_image(
        &self,
        request: Request<wire::RemoveImageRequest>,
    ) -> Answer<wire::RemoveImageResponse> {
        Ok(self.do_remove_image(request.into_inner()).await?.into())
    }

    async fn image_fs_info(
        &self,
        request: Request<wire::ImageFsInfoRequest>,
    ) -> Answer<wire::ImageFsInfoResponse> {
        Ok(self.do_image_fs_info(request.into_inner()).await?.into())
    }
}
