-- Run once by the PostgreSQL image, beside the database `prefect` that it makes itself.
CREATE DATABASE mlflow;
